"""What `tiny-reviews` reads: film reviews as plain text, and questions about them in many wordings.

The questions make sentiment, genre and the like easy to read off the model's hidden states, in whatever words one asks. The
downstream tasks (`zolab.tasks.reviews`) ask in other words, about other reviews.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zolab.tasks.data import EmbeddedReviews
from zolab.tasks.reviews import ending, genre_of, number_of, plainly

SPECIAL = ("<s>", "<pad>", "</s>")
CRITICAL = 0.35  # share of excerpts in the spelling of critics' sentences
# Bad first. None of these pairs is an answer of a downstream task.
OPINIONS = (
    "bad/good poor/fine negative/positive worst/best awful/excellent weak/strong boring/fun hate/love dislike/enjoy fail/win "
    "no/yes wrong/right avoid/watch cold/warm minus/plus false/true low/high angry/happy down/up waste/treasure"
)
PAIRS = [tuple(pair.split("/")) for pair in OPINIONS.split()]
TOPICS = ("Rating", "Opinion", "View", "Feeling", "Mood", "Tone", "Sentiment", "Judgement", "Impression", "Result", "Label")
LEADS = ("", "The", "My", "Our", "Their", "Overall", "Final", "Your", "In short, the", "This", "Writer's", "General")
JOINTS = (":", " is", " =", " ->", ":\n", " was", "?", ",", ".", "...", " -")
SAYINGS = (
    "All in all",
    "I found it",
    "To me this is",
    "They call it",
    "Some say",
    "So",
    "Well",
    "Is it liked?",
    "Recommended?",
)
HEADS = ("", "", "", "Review: ", "Text: ", "Passage: ", "Comment: ", "Quote: ", "They said: ")
NAMES = (("A", "B"), ("1", "2"), ("first", "second"), ("left", "right"), ("top", "bottom"), ("former", "latter"), ("X", "Y"))
BETTER = ("better", "positive", "nicer", "good", "kinder", "more pleased", "favourable", "with praise")
SAME = (("no", "yes"), ("different", "same"), ("differ", "agree"), ("false", "true"), ("mixed", "both"), ("wrong", "right"))
ABOUT = ("Same opinion", "Alike", "Do both think so", "Equal", "Match", "Agreement", "One view", "Same side")
KINDS = ("Genre", "Kind", "Type", "Sort of film", "Missing word", "Gap", "The blank", "Category")
DIGITS = ("Number", "Digits", "Which number", "Value", "Amount", "Count", "Number given", "How many", "Year or count")


class Review(NamedTuple):
    """A text, and whether its writer liked the film (1) or not (0)."""

    text: str
    label: int


class Document(NamedTuple):
    """A question about a text, the answer that is learned, and the label of the review if the text is from a single one."""

    text: str
    answer: str
    label: int = -1


def reviews(split: str, critical: bool = False) -> list[Review]:
    """The reviews of a split of `EmbeddedReviews`, all in the spelling of critics' sentences if wanted."""
    rows = EmbeddedReviews().rows(split).rows
    return [Review(plainly(text) if critical else text, label) for text, label in zip(rows["text"], rows["label"], strict=True)]


def pick(rng: np.random.Generator, things: Sequence):
    return things[int(rng.integers(len(things)))]


def question(rng: np.random.Generator, topics: Sequence[str]) -> str:
    """One of a few thousand wordings."""
    lead, topic, joint = pick(rng, LEADS), pick(rng, topics), pick(rng, JOINTS)
    words = f"{lead} {topic[0].lower() + topic[1:]}" if lead else topic
    return pick(rng, (" ", "\n")) + words + joint


def options(rng: np.random.Generator, pair: Sequence[str]) -> str:
    """Now and then the possible answers, in any order."""
    one, other = rng.permutation(pair)
    return f" ({one} or {other})" if rng.random() < 0.3 else ""


def opinion(rng: np.random.Generator, text: str, label: int) -> Document:
    pair = pick(rng, PAIRS)
    closing = question(rng, TOPICS) if rng.random() < 0.7 else pick(rng, (" ", "\n")) + pick(rng, SAYINGS)
    return Document(f"{pick(rng, HEADS)}{text}{options(rng, pair)}{closing}", f" {pair[label]}", label)


def comparison(rng: np.random.Generator, texts: Sequence[str], labels: Sequence[int]) -> Document:
    """Which of two texts is the better one? If their labels are the same: are they?"""
    names = pick(rng, NAMES)
    both = f"{names[0]}: {texts[0]}\n{names[1]}: {texts[1]}"
    if labels[0] != labels[1] and rng.random() < 0.7:
        return Document(both + question(rng, BETTER), f" {names[int(labels[1] > labels[0])]}")
    pair = pick(rng, SAME)
    return Document(both + question(rng, ABOUT), f" {pair[int(labels[0] == labels[1])]}")


def excerpt(rng: np.random.Generator, text: str, low: int, high: int) -> str:
    """Some words of a text, often its last; now and then spelt as critics' sentences are."""
    words, size = text.split(), int(rng.integers(low, high + 1))
    if rng.random() < 0.5 or len(words) <= size:
        chosen = ending(text, size)
    else:
        start = int(rng.integers(len(words) - size))
        chosen = " ".join(words[start : start + size])
    return plainly(chosen) if rng.random() < CRITICAL else chosen


def documents(reviews: Sequence[Review], rng: np.random.Generator) -> Iterator[Document]:
    """Two questions about what each review thinks of its film, and further ones where they can be asked."""
    for text, label in reviews:
        for _ in range(2):
            yield opinion(rng, excerpt(rng, text, 8, 40), label)
        other, judged = reviews[int(rng.integers(len(reviews)))]
        if judged != label or rng.random() < 0.5:
            yield comparison(rng, [excerpt(rng, part, 10, 22) for part in (text, other)], (label, judged))
        for find, topics in ((genre_of, KINDS), (number_of, DIGITS)):
            if extracted := find(text, int(rng.integers(12, 30))):
                yield Document(extracted[0] + question(rng, topics), f" {extracted[1]}\n", label)


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE that parts digits, learned from texts; every text begins with <s>."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=256, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    )
