"""The events of a run's log and the parts of its record that are read again."""

from zolab.records.log import RunLog
from zolab.records.shapes import NUMBER, check_events
from zolab.runs.config import require

IDENTITY = {"base": str, "architecture?": str, "adapter?": str, "tokenizer?": str, "data?": {str: str}}

STEP = {"step": int, "projected_grads": [NUMBER], "lrs": [NUMBER], "weight_decays": [NUMBER], "losses": [NUMBER]}
EVALUATION = {"step": int, "split": str, "loss": NUMBER, "metric": NUMBER, "examples": int, "forwards": int}
EVENTS = {
    "start": {"config": dict, "trained?": int, "cut?": {str: int}, **IDENTITY},
    "step": {**STEP, "loss": NUMBER, "sigmas": [NUMBER]},
    "evaluation": EVALUATION,
    "time": {"seconds": NUMBER, "peak_bytes": int},
    "optimizer": {"settings": dict},
    "end": {"best_step": int},
}
SPLIT = {"before": EVALUATION, "after": EVALUATION}
RESULT = {"best_step": int, "steps": int, "forwards": int, "dev": EVALUATION, "train": SPLIT, "test": SPLIT}
RECORD = {
    "config": {"model": str, "dtype": str, "device": str, "seed?": int, "tuning?": str, "tuning_args?": str},
    "trained?": int,
    "steps": [{"projected_grads": [NUMBER], "loss": NUMBER}],
    "evaluations": [EVALUATION],
    "result": RESULT,
    "timing": {"wall_seconds": NUMBER, "peak_bytes": int},
    "cut?": {str: int},
}


def check_log(log: RunLog) -> None:
    """Raise ValueError unless a run's log has events as they are written, and ends at a step that it has."""
    check_events(log.events, EVENTS, str(log.path))
    steps = len(log.of("step"))
    ends = all(0 <= event["best_step"] <= steps for event in log.of("end"))
    require(ends, f"{log.path} ends at a step that it does not have; restore it, or start afresh with --overwrite.")
