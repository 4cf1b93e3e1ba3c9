"""What a classification run learned: accuracy as it is, accuracy after calibration, and the order of the examples alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import rankdata
from transformers import PreTrainedModel

from zolab.tasks.base import Scores, Task
from zolab.tasks.example import Example, shared_candidates


@dataclass(frozen=True)
class Judgement:
    """Of a model's answers to questions that share their candidates.

    Args:
        accuracy, loss: of the answers as they are; the loss is cross-entropy over the candidates, in nats.
        calibrated_accuracy, calibrated_loss: with an offset for each candidate added to its score, fitted on training examples.
        auc: of two candidates, the share of pairs of examples, one of each class, that the difference of the scores puts in the
            right order; no offset changes it. None if there are more candidates, or examples of one class alone.
        offsets: those that were fitted, the first being zero.
        examples, training: how many there were.
    """

    accuracy: float
    calibrated_accuracy: float
    auc: float | None
    loss: float
    calibrated_loss: float
    offsets: tuple[float, ...]
    examples: int
    training: int

    def __str__(self) -> str:
        order = "" if self.auc is None else f", AUC {self.auc:.3f}"
        return f"accuracy {self.accuracy:.1%}, after calibration {self.calibrated_accuracy:.1%}{order}"


def judge(task: Task, model: PreTrainedModel, tokenizer, training: Sequence[Example], examples: Sequence[Example]) -> Judgement:
    """Judge a model's answers, with offsets fitted on training examples; no weight moves.

    Args:
        task: of choices between the same candidates in every example.
        model, tokenizer: in eval mode.
        training: what the offsets are fitted on.
        examples: what is judged; none of them in `training`.

    Raises:
        ValueError: the examples have different candidates, or either list is empty.
        FloatingPointError: a candidate's probability is no number.
    """
    return score_and_judge(task, model, tokenizer, training, examples)[1]


def score_and_judge(
    task: Task, model: PreTrainedModel, tokenizer, training: Sequence[Example], examples: Sequence[Example]
) -> tuple[Scores, Judgement]:
    """What `task.score` gives for the examples, and what `judge` does, from one evaluation; arguments and errors as there."""
    check_same_candidates(task, training, examples)
    (_, known), (scores, scored) = (task.compare(model, tokenizer, each) for each in (training, examples))
    known, scored = (plain + np.array(task.offsets or (0.0,)) for plain in (known, scored))
    if type(task).score is not Task.score:  # it has metrics of its own
        scores = task.score(model, tokenizer, examples)
    rights, answers = (np.array([example.answer for example in each]) for each in (training, examples))
    return scores, judged_with(fit_offsets(known, rights), scored, answers, len(training))


def judged(probabilities: np.ndarray, answers: np.ndarray, training: int) -> Judgement:
    """The same from what the model said already.

    Args:
        probabilities: of each candidate, shape (training + examples, candidates), as `Task.predict` gives them.
        answers: index of the right candidate, shape (training + examples,).
        training: so many of the first ones are what the offsets are fitted on.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=float), 1e-300))
    return judged_with(fit_offsets(logs[:training], answers[:training]), logs[training:], answers[training:], training)


def judged_with(offsets: np.ndarray, scores: np.ndarray, answers: np.ndarray, training: int) -> Judgement:
    """The same with offsets that were fitted already.

    Args:
        offsets: of `fit_offsets`, one for each candidate; or a row for each example.
        scores: log-probability of each candidate, up to a constant for each example, shape (examples, candidates).
        answers: index of the right candidate, shape (examples,).
        training: how many examples the offsets were fitted on.
    """
    plain, shifted, picked = log_softmax(scores, axis=1), log_softmax(scores + offsets, axis=1), (range(len(answers)), answers)
    return Judgement(
        float((plain.argmax(1) == answers).mean()),
        float((shifted.argmax(1) == answers).mean()),
        auc(scores[:, 1] - scores[:, 0], answers) if scores.shape[1] == 2 == len(set(answers.tolist())) else None,
        float(-plain[picked].mean()),
        float(-shifted[picked].mean()),
        tuple(np.atleast_2d(offsets).mean(0).tolist()),
        len(answers),
        training,
    )


def judged_by_halves(scores: np.ndarray, answers: np.ndarray) -> Judgement | None:
    """Each half of some examples judged with the offsets that the other half gives, so that no other examples are needed.

    Args:
        scores, answers: as for `judged_with`. Every second example is of one half.

    Returns:
        The judgement, its offsets the mean of both halves'; None where a half lacks a class, whose offset would say nothing.
    """
    halves, count = (slice(0, None, 2), slice(1, None, 2)), scores.shape[1]
    if any(len(set(answers[half].tolist())) < count for half in halves):
        return None
    offsets = np.empty_like(scores)
    for half, other in (halves, halves[::-1]):
        offsets[half] = fit_offsets(scores[other], answers[other])
    return judged_with(offsets, scores, answers, len(answers) // 2)


def check_same_candidates(task: Task, training: Sequence[Example], examples: Sequence[Example]) -> None:
    """Raise ValueError unless both lists have examples, and all of them the same candidates."""
    if not (training and examples and shared_candidates([*training, *examples])):
        raise ValueError(
            f"calibration needs examples with the same candidates, and {task.name} has others, or none; leave it out."
        )


def fit_offsets(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The offset of each candidate with which the cross-entropy is lowest; the first is zero.

    Args:
        scores: log-probability of each candidate, shape (examples, candidates).
        answers: index of the right one, shape (examples,).
    """
    shares = np.bincount(answers, minlength=scores.shape[1]) / len(answers)

    def loss_and_slope(free: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(scores + np.append(0.0, free), axis=1)
        return -logs[np.arange(len(answers)), answers].mean(), (np.exp(logs).mean(0) - shares)[1:]

    bounds = [(-20.0, 20.0)] * (scores.shape[1] - 1)  # a class that is missing would send its offset to infinity
    return np.append(0.0, minimize(loss_and_slope, np.zeros(scores.shape[1] - 1), jac=True, bounds=bounds).x)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the share of (0, 1) pairs in which the 1 has the higher score, ties counting half.

    Args:
        scores: one for each example.
        labels: 0 or 1.
    """
    ones = np.asarray(labels) == 1
    n1, n0 = int(ones.sum()), int((~ones).sum())
    return float((rankdata(scores)[ones].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n1 and n0 else float("nan")


def auc_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """How much an area under the ROC curve changed, with its 95 % interval over examples, drawn anew within each class.

    The interval is of these weights, on other examples. Another run of the same method has other weights.

    Args:
        before, after: scores of the same examples.
        labels: 0 or 1, both of them there.
        draws: of the bootstrap.
    """
    rng, labels = np.random.default_rng(0), np.asarray(labels)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    changes = []
    for _ in range(draws):
        resampled = np.concatenate([rng.choice(members, len(members)) for members in classes])
        changes.append(auc(after[resampled], labels[resampled]) - auc(before[resampled], labels[resampled]))
    low, high = np.quantile(changes, [0.025, 0.975])
    return auc(after, labels) - auc(before, labels), float(low), float(high)
