"""A cell of a study: one run in a folder that is absent, resumable or complete."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zolab.records.files import read_json, write_json
from zolab.records.sealed import seal, unseal
from zolab.records.shapes import check_shape
from zolab.studies.outcomes import CELL
from zolab.studies.plan import configuration

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        task, method: names in the plan.
        settings: of the run, with its `lr` and `seed`.
        label: tells apart cells that differ in settings of a grid; part of the name.
    """

    task: str
    method: str
    settings: dict[str, Any]
    label: str = ""

    @property
    def lr(self) -> float:
        return self.settings["lr"]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}-{self.method}{self.label}-lr{self.lr:.3g}-seed{self.seed}"

    def state(self, out: Path) -> str:
        """absent, resumable or complete."""
        folder = out / self.name
        return "complete" if (folder / OUTCOME).exists() else "resumable" if folder.exists() else "absent"

    def run(self, out: Path) -> dict[str, Any]:
        """Run it, or go on with it, in its folder under `out`; a complete one is only read.

        Returns:
            What came out: `task`, `method`, `lr`, `seed`, and of a run that did not diverge `curve` ([forward passes, dev loss]
            of each evaluation), `train_loss_last` (mean of the last 25 steps), `test_before` and `test_after` (the task's
            metric, a fraction), `forwards`, `seconds` and `peak_bytes`; where the task has classes also `judged_before` and
            `judged_after` on the test examples, and `judged_curve`, [forward passes, dev loss with an offset fitted there, AUC]
            of each evaluation; `guards` if steps did nothing, or what arrives of them was measured. One that diverged has
            `diverged`, the reason.

        Raises:
            ValueError, OSError, RuntimeError: the run could not be made; see `zolab.runs.finetune.finetune`.
        """
        path, own = out / self.name / OUTCOME, {"task": self.task, "method": self.method, "lr": self.lr, "seed": self.seed}
        if path.exists():
            outcome = unseal(read_json(path), str(path))
            check_shape(outcome, CELL, str(path))
            if other := [f"{name} {outcome[name]}" for name, value in own.items() if outcome[name] != value]:
                raise ValueError(f"{path} is of another run ({', '.join(other)}); choose another folder for the study.")
            return outcome
        from zolab.runs.finetune import finetune

        outcome: dict[str, Any] = own
        try:
            outcome |= _outcome(finetune(configuration(self.settings), path.parent, progress=False).record)
        except FloatingPointError as error:
            outcome["diverged"] = str(error)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, seal(outcome), indent=None)
        for weights in path.parent.glob("weights-*.safetensors"):  # of many runs they would fill the disk
            weights.unlink()
        return outcome


def _outcome(record: dict[str, Any]) -> dict[str, Any]:
    result, timing = record["result"], record["timing"]
    last = [step["loss"] for step in record["steps"]][-25:]
    judged = {f"judged_{when}": result["test"][when].get("judgement") for when in ("before", "after")}
    on_dev = [(e["forwards"], e["judgement"]) for e in record["evaluations"] if e["split"] == "dev" and "judgement" in e]
    if on_dev:
        judged["judged_curve"] = [[forwards, judgement["calibrated_loss"], judgement["auc"]] for forwards, judgement in on_dev]
    guards = record.get("guards", {})
    judged |= {"guards": guards if any(guards.values()) else None}
    return {
        "curve": [[entry["forwards"], entry["loss"]] for entry in record["evaluations"] if entry["split"] == "dev"],
        "train_loss_last": sum(last) / len(last),
        "test_before": result["test"]["before"]["metric"],
        "test_after": result["test"]["after"]["metric"],
        "forwards": result["forwards"],
        "seconds": timing["wall_seconds"],
        "peak_bytes": timing["peak_bytes"],
        **{name: value for name, value in judged.items() if value},
    }


def final_loss(outcome: dict[str, Any]) -> float:
    """Dev loss at the last evaluation, infinite for a run that diverged or ended at NaN."""
    loss = outcome["curve"][-1][1] if outcome.get("curve") else float("inf")
    return loss if loss == loss else float("inf")
