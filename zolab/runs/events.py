"""The events of a run's log and the parts of its record that are read again."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from zolab.optim import StepRecord
from zolab.records.log import RunLog
from zolab.records.shapes import NUMBER, check_events
from zolab.runs.config import OLDER, Config, require
from zolab.runs.guards import ARRIVED, COUNTS, OVERFLOW, Guards
from zolab.runs.objectives import rank
from zolab.runs.tuning import kept

IDENTITY = {"base": str, "architecture?": str, "adapter?": str, "tokenizer?": str, "data?": {str: str}}

HELD = {"trained?": int, "weights_bytes?": int, "base_bits?": NUMBER}
STEP = {"step": int, "projected_grads": [NUMBER], "lrs": [NUMBER], "weight_decays": [NUMBER], "losses": [NUMBER]}
JUDGEMENT = {
    **dict.fromkeys(("accuracy", "calibrated_accuracy", "loss", "calibrated_loss"), NUMBER),
    **{"auc": (*NUMBER, type(None)), "offsets": [NUMBER], "examples": int, "training": int},
}
EVALUATION = {
    **{"step": int, "split": str, "loss": NUMBER, "metric": NUMBER, "examples": int, "forwards": int},
    "judgement?": JUDGEMENT,
}
CALIBRATION = {"offsets": [NUMBER], "candidates": [str], "examples": int, "forwards": int}
RANKS = {"count": int, "parallel": str, "bytes_a_step?": NUMBER}
EVENTS = {
    "start": {"config": dict, **HELD, "cut?": {str: int}, **IDENTITY},
    "step": {**STEP, "loss": NUMBER, "sigmas": [NUMBER], "arrived?": ARRIVED},
    "evaluation": EVALUATION,
    "calibration": CALIBRATION,
    "time": {"seconds": NUMBER, "peak_bytes": int},
    "optimizer": {"settings": dict},
    "overflow": OVERFLOW,
    "ranks": RANKS,
    "end": {"best_step": int},
}
SPLIT = {"before": EVALUATION, "after": EVALUATION}
RESULT = {"best_step": int, "steps": int, "forwards": int, "dev": EVALUATION, "train": SPLIT, "test": SPLIT, "weights?": str}
RECORD = {
    "config": {"model": str, "dtype": str, "device": str, "seed?": int, "tuning?": str, "tuning_args?": str, "quantise?": str},
    **HELD,
    "steps": [{"projected_grads": [NUMBER], "loss": NUMBER}],
    "evaluations": [EVALUATION],
    "result": RESULT,
    "timing": {"wall_seconds": NUMBER, "peak_bytes": int},
    "cut?": {str: int},
    "calibration?": CALIBRATION,
    "ranks?": RANKS,
    "guards?": COUNTS,
}


def check_log(log: RunLog) -> None:
    """Raise ValueError unless a run's log has events as they are written, and ends at a step that it has."""
    check_events(log.events, EVENTS, str(log.path))
    steps = len(log.of("step"))
    ends = all(0 <= event["best_step"] <= steps for event in log.of("end"))
    require(ends, f"{log.path} ends at a step that it does not have; restore it, or start afresh with --overwrite.")


def same_configuration(config: Config, log: RunLog) -> Config:
    """The configuration with which a run goes on: that of its log, if it has begun.

    Raises:
        ValueError: the log is of another configuration, whose differences the sentence names, or lacks its beginning; or the
            folder has results of a run, and no log.
    """
    require(not log.of("step") or bool(log.of("start")), f"{log.path} lacks its beginning; use --overwrite.")
    foreign = [] if log.of("start") else kept(log.path.parent)
    message = f"{log.path.parent} has {', '.join(foreign)} without a log of the run: choose another folder, or overwrite it."
    require(not foreign, message)
    for started in log.of("start"):
        known = {**OLDER, **started["config"]}
        for name in OLDER.keys() - started["config"].keys():  # what was not chosen stays as it was then
            if getattr(config, name) == type(config).__dataclass_fields__[name].default:
                config = replace(config, **{name: OLDER[name]})
        settings = asdict(config)
        different = [name for name in settings if settings[name] != known.get(name)]
        changes = ", ".join(f"{name} {known.get(name)!r} there, {settings[name]!r} here" for name in different)
        message = f"{log.path.parent} holds another run ({changes}); choose another folder, or overwrite it."
        require(not different, message)
    return config


def check_settings(log: RunLog, settings: dict[str, Any], written: str) -> None:
    """Note the settings of a run's optimizer; what one names, such as a PertNN's folder, may have changed since the run began.

    Args:
        log: of the run.
        settings: of its optimizer.
        written: the text that they come from, for the error.

    Raises:
        ValueError: the log has others.
    """
    known = log.of("optimizer")
    if not known:
        log.append("optimizer", settings=settings)
    elif known[0]["settings"] != json.loads(json.dumps(settings)):
        raise ValueError(f"{written} is no longer what {log.path.parent} was started with; use --overwrite.")


def best_of(log: RunLog) -> dict[str, Any]:
    """The first of the best evaluations on dev."""
    return min((entry for entry in log.of("evaluation") if entry["split"] == "dev"), key=rank_of(log))


def out_of_patience(log: RunLog, patience: int, step: int) -> bool:
    """Whether so many evaluations on dev up to a step, not 0, went by without a new best."""
    dev = [entry for entry in log.of("evaluation") if entry["split"] == "dev" and entry["step"] <= step]
    return bool(patience) and len(dev) - 1 - dev.index(min(dev, key=rank_of(log))) >= patience


def rank_of(log: RunLog) -> Callable[[dict[str, Any]], tuple[float, ...]]:
    """What orders evaluations, the best first, by the objective of a log's run."""
    return partial(rank, {**OLDER, **log.of("start")[0]["config"]}["objective"])


def record_of(log: RunLog, forwards: int, weights: str) -> dict[str, Any]:
    """The record that a log tells of. All but `timing` is the same whatever sessions ran the configuration to its end.

    Args:
        log: of a run that took its last step and was evaluated after it.
        forwards: forward passes of its calibration and all steps.
        weights: digest of the weights of the best step, as `zolab.models.trained_digest` gives it.
    """
    steps, evaluations = ([plain(entry) for entry in log.of(event)] for event in ("step", "evaluation"))
    best = plain(best_of(log))
    result: dict[str, Any] = {"best_step": best["step"], "dev": best, "steps": len(steps), "forwards": forwards}
    for split in ("train", "test"):
        evaluated = [entry for entry in evaluations if entry["split"] == split]
        result[split] = {"before": evaluated[0], "after": evaluated[-1]}
    result["weights"] = weights
    begun = plain(log.of("start")[0])
    if fitted := log.of("calibration"):
        begun["calibration"] = plain(fitted[0])
    if shared := log.of("ranks"):
        begun["ranks"] = plain(shared[-1])
    times = log.of("time")
    timing = {
        "seconds": [round(entry["seconds"], 3) for entry in times],
        "wall_seconds": times[-1]["seconds"],
        "peak_bytes": max(entry["peak_bytes"] for entry in times),
    }
    guards = Guards(log).counts()
    return {**begun, "steps": steps, "evaluations": evaluations, "guards": guards, "result": result, "timing": timing}


def step_record(entry: dict[str, Any]) -> StepRecord:
    """A step as the optimizer has it."""
    values: Any = (tuple(entry[name]) if isinstance(entry[name], list) else entry[name] for name in StepRecord._fields)
    return StepRecord(*values)


def plain(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a log as a record has it."""
    return {key: value for key, value in entry.items() if key != "event"}
