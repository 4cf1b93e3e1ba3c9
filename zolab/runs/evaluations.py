"""One evaluation of a run, and a run's calibration: what is kept of them in its log."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zolab.records.files import read_json, write_json
from zolab.records.sealed import seal, unseal
from zolab.records.shapes import check_shape
from zolab.runs.batches import calibration_examples
from zolab.runs.config import Config, forwards
from zolab.runs.events import CALIBRATION
from zolab.runs.tuning import OFFSETS
from zolab.tasks import Example, Splits, Task, shared_candidates
from zolab.tasks.judgement import fit_offsets, judged_by_halves, judged_with


def evaluation(
    task: Task, model: Any, tokenizer: Any, examples: Sequence[Example], split: str, trained: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Loss, metric and number of examples; and where all of them share their candidates, a `judgement` of the answers.

    Args:
        task: with the offsets of its run, if it was calibrated; loss and metric are with them, what is judged is without.
        model, tokenizer: in eval mode.
        examples: those to be evaluated.
        split: "train", whose judgement fits offsets to these examples themselves; "dev", to its halves in turn; or "test".
        trained: the judgement of the training examples at the same weights, whose offsets calibrate "test".

    Returns:
        `loss`, `metric`, `examples` and perhaps `judgement`, of the keys of `zolab.tasks.judgement.Judgement`. It is left out
        where a class is missing among the examples that offsets are fitted on.

    Raises:
        ValueError, FloatingPointError: as from `Task.score`.
    """
    classes = len(shared_candidates(examples)) if type(task).score is Task.score else 0
    if not classes:
        return task.evaluate(model, tokenizer, examples)._asdict()
    measured, scores = task.compare(model, tokenizer, examples)
    entry: dict[str, Any] = {
        "loss": measured.loss,
        "metric": float(measured.metrics[task.metric].mean()),
        "examples": len(examples),
    }
    answers, judgement = np.array([example.answer for example in examples]), None
    if split == "dev":
        judgement = judged_by_halves(scores, answers)
    elif split == "test" and trained:
        judgement = judged_with(np.array(trained["offsets"]), scores, answers, trained["examples"])
    elif split == "train" and len(set(answers.tolist())) == classes:
        judgement = judged_with(fit_offsets(scores, answers), scores, answers, len(answers))
    if judgement:
        entry["judgement"] = {**vars(judgement), "offsets": list(judgement.offsets)}
    return entry


def calibration(config: Config, task: Task, model: Any, tokenizer: Any, training: Sequence[Example]) -> dict[str, Any]:
    """The offsets that a run adds to its candidates' scores, fitted before its first step.

    Args:
        config: of the run, whose `calibrate` and `seed` say on which training examples.
        task: without offsets.
        model, tokenizer: as the run begins.
        training: its training examples.

    Returns:
        `offsets`, one for each of the `candidates`; `examples`, how many they were fitted on; `forwards`, the passes that took.
    """
    chosen = calibration_examples(config, training)
    return {
        "offsets": offsets_for(task, model, tokenizer, chosen, config.batch_size),
        "candidates": list(shared_candidates(chosen)),
        "examples": len(chosen),
        "forwards": forwards(config, 0, len(training)),
    }


def offsets_for(task: Task, model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int = 32) -> list[float]:
    """The offsets that fit some examples, one for each candidate.

    Args:
        task: whose examples share their candidates.
        model, tokenizer: in eval mode.
        examples: with each of the classes among their answers.
        batch_size: of them at once.
    """
    _, scores = task.compare(model, tokenizer, examples, batch_size)
    return fit_offsets(scores, np.array([example.answer for example in examples])).tolist()


def keep_offsets(fitted: Mapping[str, Any] | None, *folders: Path) -> None:
    """Write what `calibration` found, if anything, into those of some folders that are there and lack it."""
    for folder in folders if fitted else ():
        if folder.is_dir() and not (folder / OFFSETS).exists():
            write_json(folder / OFFSETS, seal(fitted or {}))


def read_offsets(folder: Path) -> dict[str, Any] | None:
    """What `keep_offsets` wrote into a folder; None where there is no such file.

    Raises:
        ValueError: the file is damaged or was changed.
        OSError: it cannot be read.
    """
    path = folder / OFFSETS
    if not os.path.isfile(path):  # nor raises where a model's name makes no path
        return None
    fitted = unseal(read_json(path, 1 << 20), str(path))
    check_shape(fitted, CALIBRATION, str(path))
    if len(fitted["offsets"]) != len(fitted["candidates"]):
        raise ValueError(f"{path} is damaged: it has not one offset for each candidate; restore it.")
    return fitted


def announce(config: Config, task: Task, examples: Splits) -> None:
    """Print what a run that begins does otherwise than one may think.

    Args:
        config: of the run.
        task: its task.
        examples: that were drawn.
    """
    asked = {split: getattr(config, split) or getattr(task, split) for split in examples._fields}
    sizes = zip(asked.items(), map(len, examples), strict=True)
    if fewer := [f"{size} {split} examples instead of {wanted}" for (split, wanted), size in sizes if size < wanted]:
        print(f"{task.name} has {', '.join(fewer)}")
    if not config.calibrate and read_offsets(Path(config.model).expanduser()):
        print(f"{config.model} has offsets of its run, which this run leaves out; --calibrate fits new ones")


def shown(dev: Mapping[str, Any], metric: str) -> str:
    """An evaluation on dev in a few words, for a progress line.

    Args:
        dev: of `evaluation`.
        metric: its name.
    """
    order = (dev.get("judgement") or {}).get("auc")
    message = "" if order is None else f", AUC {order:.2f}"
    return f"dev loss {dev['loss']:.3f}, {metric} {100 * dev['metric']:.1f} %{message}"
