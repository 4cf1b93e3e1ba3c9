"""Fine-tune a model; started again in the same folder, the run goes on where it stopped."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from zolab.cli.own_data import add_own_data, described
from zolab.cli.parser import add_settings, settings_of
from zolab.runs.config import Config

EXAMPLE = (
    "--model tiny-reviews --task reviews_sentence --lr 5e-4 --steps 50 --train 200 --dev 100 --test 200 --out runs/example"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder of the run; a stopped run in it goes on"
    )
    parser.add_argument("--overwrite", action="store_true", help="discard an earlier run in the folder")
    text = "let each of the processes that torchrun or accelerate launch started hold a part of the weights (FSDP2) instead "
    text += "of all of them, for models whose gradients do not fit one GPU; of sgd and adam"
    parser.add_argument("--shard", action="store_true", help=text)
    add_settings(parser, Config)
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    from zolab.runs.finetune import finetune
    from zolab.runs.guards import guard_summary
    from zolab.runs.ranks import Ranks

    (options.task,) = described(options, [options.task])
    config = settings_of(options, Config)
    if not Ranks.joined().first:
        warnings.simplefilter("ignore")  # the first process warns, and tells what came out
        finetune(config, options.out, overwrite=options.overwrite, shard=options.shard)
        return
    run = finetune(config, options.out, overwrite=options.overwrite, shard=options.shard)
    result, timing = run.record["result"], run.record["timing"]
    metric = run.task.metric
    print(f"{config.optimizer} on {run.task.name}, {config.model}: kept step {result['best_step']} of {result['steps']}")
    for split in ("train", "test"):
        before, after = result[split]["before"], result[split]["after"]
        print(
            f"  {split:5} loss {before['loss']:.3f} -> {after['loss']:.3f}   "
            f"{metric} {100 * before['metric']:.1f} % -> {100 * after['metric']:.1f} %   ({after['examples']} examples)"
        )
    judged = [result["test"][when].get("judgement") for when in ("before", "after")]
    if all(judged):
        print(f"  {_judged(judged, bool(config.calibrate))}")
    if config.calibrate:
        offsets = ", ".join(f"{offset:+.2f}" for offset in run.record["calibration"]["offsets"])
        print(f"  losses and answers are with the offsets {offsets}, of {config.calibrate} training examples: offsets.json")
    if config.tuning != "full":
        where = Path(options.out) / "adapter"
        print(f"  {run.record['trained']:,} weights were trained ({config.tuning}); the adapter is in {where}")
    if config.quantise != "none":
        size, bits = run.record["weights_bytes"] / 1e6, run.record["base_bits"]
        print(f"  all weights take {size:,.1f} MB; one of the base, in {config.quantise}, takes {bits:.1f} bits in the mean")
    if line := guard_summary(run.record):
        print(f"  {line}")
    if any(cut := run.record.get("cut", {}).values()):
        print(
            f"  {sum(cut)} texts were longer than the model or the task takes, and lost tokens from the left of their prompts"
        )
    if shared := run.record.get("ranks"):
        exchanged = (
            f"which exchanged {shared['bytes_a_step']:.0f} bytes a step"
            if "bytes_a_step" in shared
            else "each with a part of the weights"
        )
        print(f"  {shared['count']} processes, {exchanged}")
    counted = "evaluations of f1" if config.objective == "f1" else "forward passes"
    print(f"  {result['forwards']} {counted}, {timing['wall_seconds'] / 60:.1f} minutes", end="")
    print(f", peak memory {timing['peak_bytes'] / 1e9:.2f} GB; record: {Path(options.out) / 'record.json'}")


def _judged(judged: list[Any], calibrated: bool) -> str:
    """What a run changed beside the offset between its answers, on test examples before and after it."""

    def change(name: str, form: str) -> str:
        return " -> ".join(f"{values[name]:{form}}" for values in judged)

    plain = f", accuracy without any {change('accuracy', '.1%')}" if calibrated else ""
    order = "" if judged[0]["auc"] is None else f", AUC {change('auc', '.3f')}"
    return f"test with offsets fitted before and after: accuracy {change('calibrated_accuracy', '.1%')}{order}{plain}"
