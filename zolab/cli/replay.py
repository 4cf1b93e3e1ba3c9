"""Rebuild a run's fine-tuned weights, or its adapter, from its base model and trajectory, without forward passes."""

import argparse
from pathlib import Path

EXAMPLE = "runs/example --out runs/model"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    folder = "new folder for the model and its tokenizer, or for the adapter"
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=folder)
    text = "torch device; by default the run's, or what there is in its place"
    parser.add_argument("--device", metavar="TEXT", help=text)


def run(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from zolab.models import save_adapter
    from zolab.optim import replay
    from zolab.records.files import check_new, new_folder
    from zolab.runs.config import Config
    from zolab.runs.evaluations import keep_offsets
    from zolab.runs.identity import check_same, identity_of_model
    from zolab.runs.tuning import load_tuned
    from zolab.runs.verify import device_here, finished

    record, trajectory = finished(options.run)
    check_new(options.out)
    names = ("model", "dtype", "device", "seed", "tuning", "tuning_args", "quantise")
    config = Config(**{name: record["config"][name] for name in names if name in record["config"]})
    config = replace(config, device=options.device or device_here(config.device))
    model, tokenizer = load_tuned(config)
    check_same(identity_of_model(model), record, options.run, "bring that one back")
    replay(model, trajectory)
    if config.tuning == "full":
        with new_folder(options.out) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            keep_offsets(record.get("calibration"), folder)
    else:
        save_adapter(model, options.out, config.model)
        keep_offsets(record.get("calibration"), options.out)
    what = "model" if config.tuning == "full" else "adapter"
    print(f"{len(trajectory.records)} steps replayed; the {what} is in {options.out}")
