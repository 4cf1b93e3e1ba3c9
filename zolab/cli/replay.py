"""Rebuild a run's fine-tuned weights from its base model and trajectory, without forward passes."""

import argparse
from pathlib import Path

EXAMPLE = "runs/example --out runs/model"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder for the model and its tokenizer")


def run(options: argparse.Namespace) -> None:
    from zolab.models import load_model
    from zolab.optim import replay
    from zolab.records.files import check_new, new_folder
    from zolab.runs.identity import check_same, identity_of_model
    from zolab.runs.verify import finished

    record, trajectory = finished(options.run)
    check_new(options.out)
    config = record["config"]
    model, tokenizer = load_model(config["model"], config["dtype"], config["device"])
    check_same(identity_of_model(model), record, options.run, "bring that one back")
    replay(model, trajectory)
    with new_folder(options.out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{len(trajectory.records)} steps replayed; the model is in {options.out}")
