"""Texts as token ids, as language models are given them here."""

from collections.abc import Sequence


def tokenize(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without what the tokenizer appends: a text that goes on must not end in an end token.

    What it puts before a text, such as a token that marks the beginning, stays. Texts longer than the model's context are
    told of by nobody here; `shorten` cuts them.
    """
    if not texts:
        return []
    tokens = tokenizer(list(texts), verbose=False)["input_ids"]
    appended = _appended(tokenizer)
    return [ids[: len(ids) - appended] for ids in tokens]


def shorten(ids: list[int], max_length: int) -> list[int]:
    """At most `max_length` tokens: the first, which may mark the beginning of a text, and the last ones."""
    return ids if len(ids) <= max_length else ids[:1] + ids[len(ids) - max_length + 1 :]


def bare(prompt: str) -> str:
    """A prompt as it is tokenised: MeZO strips the spaces around it."""
    return prompt.lstrip().rstrip(" ")


def joined(prompt: str, candidate: str) -> str:
    """A prompt and what may follow it as they are tokenised."""
    return (prompt.lstrip() + candidate).rstrip(" ")


def _appended(tokenizer) -> int:
    """How many tokens a tokenizer puts after every text."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    ends = range(len(whole), len(plain) - 1, -1)
    return next((len(whole) - end for end in ends if whole[end - len(plain) : end] == plain), 0)
