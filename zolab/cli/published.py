"""Trace a fine-tuner that the authors of ZO Fine-tuner released to the random weights it began with."""

import argparse
from pathlib import Path

EXAMPLE = "llama1B_finetuner.pth --record runs/published.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a released .pth; nothing that it holds is executed")
    text = "config.json of its model, or the folder that has it; without it, LLaMA-3.2-1B"
    parser.add_argument("--config", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--seed", type=int, default=42, metavar="INTEGER", help="of the random stream that it is compared with")
    parser.add_argument("--record", type=Path, metavar="FILE", help="file for a record of the numbers (JSON)")


def run(options: argparse.Namespace) -> None:
    import hashlib

    from zolab.pertnn.published import import_published, llama_sizes, sizes_of, summary, trace
    from zolab.records import environment, ready_for_record, save_record

    if options.record:
        ready_for_record(options.record)
    sizes = sizes_of(options.config) if options.config else llama_sizes()
    traced = trace(import_published(options.file, sizes), options.seed)
    print(summary(traced, options.seed))
    if options.record:
        digest = hashlib.sha256(options.file.read_bytes()).hexdigest()
        config = {"file": options.file.name, "sha256": digest, "seed": options.seed}
        save_record({"config": config, "result": traced, **environment()}, options.record)
        print(f"record: {options.record}")
