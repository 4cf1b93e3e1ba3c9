"""The shipped small models: they load, are what their cards say, are made by the script; their tasks are sound and unseen."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zolab.models import SHIPPED, fingerprint, load_model
from zolab.tasks import TASKS, load_task
from zolab.tasks.base import Example
from zolab.tasks.data import EmbeddedReviews
from zolab.tasks.generation import Generation
from zolab.tasks.reviews import REVIEWS, genre_of, number_of, plainly
from zolab.tiny_reviews import corpus
from zolab.tiny_reviews.card import card
from zolab.tiny_reviews.corpus import documents, reviews, train_tokenizer
from zolab.tiny_reviews.perplexity import perplexities
from zolab.tiny_reviews.pretrain import build, lay, losses, train
from zolab.tiny_reviews.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
SMALL = Recipe(vocabulary=400, width=32, heads=2, inner=64, rows=4, steps=6)


@pytest.fixture(scope="module")
def few():
    return reviews("pretrain")[:300]


@pytest.fixture(scope="module")
def tokenizer(few):
    return train_tokenizer([review.text for review in few], SMALL.vocabulary)


# --- the shipped models


def test_shipped_models_are_small():
    assert sum(file.stat().st_size for folder in SHIPPED.values() for file in folder.iterdir()) < 10e6


@pytest.mark.parametrize("name", SHIPPED)
class TestShipped:
    def test_both_ways_of_loading_give_the_same(self, name):
        model, tokenizer = load_model(name)
        assert fingerprint(AutoModelForCausalLM.from_pretrained(SHIPPED[name])) == fingerprint(model)
        assert AutoTokenizer.from_pretrained(SHIPPED[name])("Nice film.").input_ids == tokenizer("Nice film.").input_ids
        assert model.config.model_type == "llama"
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

    def test_texts_survive_the_tokenizer(self, name):
        _, tokenizer = load_model(name)
        for text in ("A film, from 1987: 10/10!\n", "Ünïcode — and emoji 🎬", "  two  spaces"):
            ids = tokenizer(text).input_ids
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert all(len(tokenizer(f" {word}").input_ids) <= 7 for word in ("great", "terrible", "keep", "drop"))

    def test_better_than_bigrams_on_held_out_text(self, name):
        critical = name.endswith("critic")
        known = [review.text for review in reviews("pretrain", critical)[:2000]]
        held_out = [review.text for review in reviews("validation", critical)[:60]]
        by_model = {key: value["token"] for key, value in perplexities(*load_model(name), known, held_out).items()}
        assert by_model["model"] < by_model["bigram"] < by_model["unigram"]

    def test_the_card_states_the_record(self, name):
        record = json.loads((SHIPPED[name] / "training.json").read_text())
        assert (SHIPPED[name] / "README.md").read_text() == card(record)
        model, _ = load_model(name)
        assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert record["name"] == name
        sizes = {"width": "hidden_size", "layers": "num_hidden_layers", "vocabulary": "vocab_size"}
        assert all(record["recipe"][ours] == getattr(model.config, theirs) for ours, theirs in sizes.items())


def test_a_derivative_is_another_model_of_the_same_shape():
    one, other = (load_model(name)[0] for name in SHIPPED)
    assert fingerprint(one) != fingerprint(other)
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


# --- pretraining


def test_the_seed_makes_the_weights(few, tokenizer):
    def trained(seed):
        recipe = replace(SMALL, seed=seed)
        model = build(recipe)
        return model, train(model, tokenizer, few, recipe, progress=False)

    before = torch.get_rng_state()
    (one, record), (again, _), (other, _) = trained(0), trained(0), trained(1)
    assert torch.equal(before, torch.get_rng_state())
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)
    assert record["tokens"] == 6 * 4 * 128
    assert not one.training


def test_training_lowers_both_losses(few, tokenizer):
    recipe = replace(SMALL, steps=60, warm_up=5)
    model = build(recipe)
    record = train(model, tokenizer, few, recipe, progress=False)
    chance = math.log(SMALL.vocabulary)
    assert record["text_loss"] < chance - 0.3
    assert record["answer_loss"] < chance - 0.3


def test_rows_hold_whole_questions_and_learn_their_answers(few, tokenizer):
    rng = np.random.default_rng(0)
    pages = list(documents(few, rng))
    rows = lay(tokenizer, pages, itertools.repeat(([0, 7, 7], 1)), SMALL, rng)
    assert rows.ids.shape == rows.owner.shape == rows.learned.shape
    counts = Counter()
    for ids, owner, learned, label in zip(*rows, strict=True):
        for number in owner.unique():
            part, kind = ids[owner == number], learned[owner == number]
            assert part[0] == tokenizer.bos_token_id
            assert len(label[owner == number].unique()) == 1
            if 2 in kind:
                start = int((kind == 2).nonzero()[0]) + 1
                counts[tokenizer.decode(part[1:start]), tokenizer.decode(part[start:])] += 1
    short = Counter((p.text, p.answer) for p in pages if len(tokenizer(p.text + p.answer).input_ids) <= SMALL.row)
    assert sum((counts - short).values()) == 0
    assert counts.total() > 0.9 * short.total()


def test_a_text_of_a_row_sees_only_itself(few, tokenizer):
    rng = np.random.default_rng(0)
    rows = lay(tokenizer, list(documents(few[:20], rng)), itertools.repeat(([0, 7, 7], 1)), SMALL, rng)
    changed = rows._replace(ids=torch.where((rows.owner == 0) & (rows.learned == 0), 9, rows.ids))
    keep = {"learned": torch.where(rows.owner > 0, rows.learned, 0), "label": torch.where(rows.owner > 0, rows.label, -1)}
    model, probe = build(SMALL), torch.nn.Linear(SMALL.width, 1)
    one, other = (losses(model, probe, part._replace(**keep)) for part in (rows, changed))
    torch.testing.assert_close(one, other)


def test_perplexity_of_known_numbers(few, tokenizer):
    """A model of equal logits has the perplexity of its vocabulary."""
    model = build(SMALL)
    for parameter in model.parameters():
        parameter.data.zero_()
    texts = [review.text for review in few]
    by_model = perplexities(model, tokenizer, texts[:200], texts[200:])
    assert by_model["model"]["token"] == pytest.approx(SMALL.vocabulary, rel=1e-3)
    assert by_model["bigram"]["token"] < by_model["unigram"]["token"] < SMALL.vocabulary
    for name in by_model:
        words, size = (
            sum(len(part) for part in parts) for parts in ([t.split() for t in texts[200:]], [t.encode() for t in texts[200:]])
        )
        assert math.log(by_model[name]["word"]) * words == pytest.approx(by_model[name]["bits_per_byte"] * size * math.log(2))


# --- the downstream tasks


def test_downstream_reviews_were_not_read():
    splits = {split: set(EmbeddedReviews().rows(split).rows["text"]) for split in ("pretrain", "train", "validation")}
    assert [len(texts) for texts in splits.values()] == [18902, 4000, 2000]
    assert len(set.union(*splits.values())) == 24902
    sentences = set(load_task("rotten_tomatoes").source.rows("train").rows["text"])
    assert not sentences & {sentence for text in splits["pretrain"] for sentence in text.split(". ")}


def test_downstream_answers_are_no_words_of_pretraining():
    learned = {word for pair in (*corpus.PAIRS, *corpus.SAME, *corpus.NAMES) for word in pair}
    for task in REVIEWS:
        example = load_task(task.name).held_out(0, 1)[0]
        if task.objective == "options":
            assert not learned & {candidate.strip() for candidate in example.candidates}, task.name


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("reviews_")])
class TestTask:
    def test_examples_are_sound_and_balanced(self, name):
        task = load_task(name)
        splits = task.sample(0)
        prompts = [{example.prompt for example in split} for split in splits]
        assert not prompts[0] & prompts[2]
        assert not prompts[0] & prompts[1]
        for example in (example for split in splits for example in split):
            assert isinstance(example, Example)
            assert 0 <= example.answer < len(example.candidates)
            assert len(set(example.candidates)) == len(example.candidates)
            assert 3 < len(example.prompt.split()) < 80
        if not isinstance(task, Generation):
            share = np.mean([example.answer for example in task.sample(0).test])
            assert 0.4 < share < 0.6

    def test_the_same_on_every_draw(self, name):
        one, other = (load_task(name).sample(3, train=20, dev=5, test=5) for _ in range(2))
        assert one == other

    def test_batches_are_short_and_have_a_gradient(self, name):
        task = load_task(name)
        model, tokenizer = load_model("tiny-reviews")
        batch = task.encode(tokenizer, task.sample(0, train=16, dev=1, test=1).train)
        task.loss(model, batch).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert batch.longest <= 128


def test_facts_of_a_text():
    assert genre_of("A horror film. Pure horror!", 10) == ("A ___ film. Pure ___!", "horror")
    assert genre_of("Neither horror nor comedy.", 10) is None
    assert genre_of("Nothing of the kind.", 10) is None
    assert number_of("It is from 1987, I think.", 4) == ("is from 1987, I", "1987")
    assert number_of("Between 3 and 4 stars.", 10) is None
    assert plainly("It's GREAT, really.") == "it's great , really ."
