"""Rebuild a run's fine-tuned weights from its base model and trajectory, without forward passes."""

import argparse
from pathlib import Path

EXAMPLE = "runs/example --out runs/model"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the model and its tokenizer")


def run(options: argparse.Namespace) -> None:
    from zolab.models import fingerprint, load_model
    from zolab.optim import Trajectory, replay
    from zolab.records import load_record
    from zolab.records.files import ready

    record = load_record(options.run / "record.json")
    ready(options.out / "config.json")
    config = record["config"]
    trajectory = Trajectory.load(options.run / "trajectory.npz")
    model, tokenizer = load_model(config["model"], config["dtype"], config["device"])
    if fingerprint(model) != record["base"]:
        raise ValueError(f"{config['model']} is no longer the model that {options.run} was started from; bring that one back.")
    replay(model, trajectory)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{len(trajectory.records)} steps replayed; the model is in {options.out}")
