"""Scores of generated answers, written after the official scripts of SQuAD and DROP, and the interval around a mean."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_f1(text: str, golds: Sequence[str]) -> float:
    """Official SQuAD F1 (Rajpurkar et al. 2016): overlap of normalised words, counted with repetition; the best gold counts."""
    return max(_word_f1(_squad_normal(text).split(), _squad_normal(gold).split()) for gold in golds)


def squad_em(text: str, golds: Sequence[str]) -> float:
    """Official SQuAD exact match: 1 if the normalised text equals a normalised gold."""
    return float(_squad_normal(text) in map(_squad_normal, golds))


def drop_f1(spans: Sequence[str], golds: Sequence[str]) -> float:
    """Official DROP F1 (Dua et al. 2019) of an answer of one or several spans, to two decimals as the script rounds it.

    Spans are aligned one to one so that the sum of their F1 (of sets of normalised words) is largest; a pair counts 0 if
    the gold span has numbers and none of them is in the other. The mean is over the longer of the two lists.
    """
    pairs = [[_bag_f1(set(_drop_normal(a).split()), set(_drop_normal(b).split())) for b in golds] for a in spans]
    return round(_best_alignment(pairs) / max(len(spans), len(golds)), 2)


def drop_em(spans: Sequence[str], golds: Sequence[str]) -> float:
    """Official DROP exact match: 1 if there are as many spans as gold spans and, normalised, they are the same ones."""
    return float(len(spans) == len(golds) and set(map(_drop_normal, spans)) == set(map(_drop_normal, golds)))


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the mean of values between 0 and 1.

    Made for zeros and ones. Values in between, such as F1, spread no more than zeros and ones of the same mean, so that for
    them it is on the safe side.
    """
    n, mean, z = len(values), float(np.mean(values)), NormalDist().inv_cdf(0.5 + confidence / 2)
    centre, shrink = mean + z * z / (2 * n), 1 + z * z / n
    half = z * (mean * (1 - mean) / n + (z / (2 * n)) ** 2) ** 0.5
    return max(0.0, (centre - half) / shrink), min(1.0, (centre + half) / shrink)


def _without_articles(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _squad_normal(text: str) -> str:
    return _without_articles(text.lower().translate(PUNCTUATION))


def _word_f1(words: list[str], gold: list[str]) -> float:
    common = (Counter(words) & Counter(gold)).total()
    return 2 * common / (len(words) + len(gold)) if common else 0.0


def _drop_normal(text: str) -> str:
    """As for SQuAD, but hyphens part words and equal numbers are written alike."""
    words = (word if _is_number(word) else word.translate(PUNCTUATION) for word in re.split("[ -]", text.lower()))
    words = (str(float(word)) if _is_number(word) else word for word in words)
    return " ".join(filter(None, map(_without_articles, words)))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _bag_f1(bag: set[str], gold: set[str]) -> float:
    numbers = set(filter(_is_number, gold))
    if numbers and not numbers & bag:
        return 0.0
    precision = len(bag & gold) / len(bag) if bag else 1.0
    recall = len(bag & gold) / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _best_alignment(pairs: list[list[float]]) -> float:
    """Largest sum of a one-to-one choice: exact, over all sets of used columns, of which an answer has few."""
    best = {frozenset(): 0.0}
    for row in pairs:
        for used, total in list(best.items()):
            for column, score in enumerate(row):
                if score and column not in used:
                    more = used | {column}
                    best[more] = max(best.get(more, 0.0), total + score)
    return max(best.values())
