"""Rebuild a run's fine-tuned weights from its base model and trajectory, without forward passes."""

import argparse
from pathlib import Path

EXAMPLE = "runs/example --out runs/model"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder for the model and its tokenizer")


def run(options: argparse.Namespace) -> None:
    from zolab.models import load_model
    from zolab.optim import Trajectory, replay
    from zolab.records import load_record
    from zolab.records.files import check_new, new_folder
    from zolab.runs.events import RECORD
    from zolab.runs.identity import check_same, identity_of_model
    from zolab.runs.names import FIRST_ORDER_NAMES

    record = load_record(options.run / "record.json", RECORD)
    check_new(options.out)
    config = record["config"]
    if config.get("optimizer") in FIRST_ORDER_NAMES:
        kept = f"the weights of its best step are in {options.run}, weights-{record['result']['best_step']}.safetensors"
        raise ValueError(f"{options.run} is a first-order run, which keeps no trajectory to replay; {kept}.")
    trajectory = Trajectory.load(options.run / "trajectory.npz")
    taken = [list(step.projected_grads) for step in trajectory.records]
    if taken != [step["projected_grads"] for step in record["steps"][: len(taken)]]:
        raise ValueError(f"{options.run / 'trajectory.npz'} is not of the run that record.json tells of; restore one of them.")
    model, tokenizer = load_model(config["model"], config["dtype"], config["device"])
    check_same(identity_of_model(model), record, options.run, "bring that one back")
    replay(model, trajectory)
    with new_folder(options.out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{len(trajectory.records)} steps replayed; the model is in {options.out}")
