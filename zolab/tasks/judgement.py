"""What a classification run learned: accuracy as it is, accuracy after calibration, and the order of the examples alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import rankdata
from transformers import PreTrainedModel

from zolab.tasks.base import Example, Scores, Task
from zolab.tasks.metrics import accuracies


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
    (_, known), (loss, found) = (task.option_scores(model, tokenizer, each) for each in (training, examples))
    plain = Scores(loss, {"accuracy": accuracies(found, [(e.answer, *e.also) for e in examples])})
    scores = plain if type(task).score is Task.score else task.score(model, tokenizer, examples)  # with metrics of its own
    shares = torch.stack([*known, *found]).double().softmax(1).cpu().numpy()
    return scores, judged(shares, np.array([example.answer for example in (*training, *examples)]), len(training))


def judged(probabilities: np.ndarray, answers: np.ndarray, training: int) -> Judgement:
    """The same from what the model said already.

    Args:
        probabilities: of each candidate, shape (training + examples, candidates), as `Task.predict` gives them.
        answers: index of the right candidate, shape (training + examples,).
        training: so many of the first ones are what the offsets are fitted on.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=float), 1e-300))
    offsets, scores, right = fit_offsets(logs[:training], answers[:training]), logs[training:], answers[training:]
    plain, shifted = log_softmax(scores, axis=1), log_softmax(scores + offsets, axis=1)
    picked = np.arange(len(right)), right
    return Judgement(
        float((plain.argmax(1) == right).mean()),
        float((shifted.argmax(1) == right).mean()),
        auc(scores[:, 1] - scores[:, 0], right) if scores.shape[1] == 2 == len(set(right.tolist())) else None,
        float(-plain[picked].mean()),
        float(-shifted[picked].mean()),
        tuple(offsets.tolist()),
        len(right),
        training,
    )


def check_same_candidates(task: Task, training: Sequence[Example], examples: Sequence[Example]) -> None:
    """Raise ValueError unless both lists have examples, and all of them the same candidates."""
    if len({example.candidates for example in (*training, *examples)}) != 1 or not training or not examples:
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
