"""Command line: `python -m zolab.tiny train`, `derive` and `study`; --help explains every option."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from zolab.commands import reported
from zolab.files import write_atomically
from zolab.models import SHIPPED, load_model
from zolab.records import environment
from zolab.tiny.card import card
from zolab.tiny.corpus import Review, reviews, train_tokenizer
from zolab.tiny.perplexity import perplexities
from zolab.tiny.pretrain import Recipe, build, lean, train

DERIVED = {"steps": 400, "lr": 1e-3, "seed": 1}


def train_command(options: argparse.Namespace) -> None:
    """Pretrain tiny-reviews: its tokenizer, its weights, its card."""
    recipe, known = replace(Recipe(), steps=options.steps, seed=options.seed), reviews("pretrain")
    tokenizer = train_tokenizer([review.text for review in known], recipe.vocabulary)
    model = build(recipe)
    lean(model, tokenizer, known, recipe.seed)
    _make("tiny-reviews", "train", model, tokenizer, known, recipe, options)


def derive_command(options: argparse.Namespace) -> None:
    """Train tiny-reviews on in the spelling of critics' sentences: tiny-reviews-critic."""
    recipe = replace(Recipe(), **{**DERIVED, "steps": options.steps, "seed": options.seed})
    _make("tiny-reviews-critic", "derive", *load_model("tiny-reviews"), reviews("pretrain", critical=True), recipe, options)


def study_command(options: argparse.Namespace) -> None:
    """Zero-shot, Adam and MeZO on the tasks of a plan; started again with the same folder, it goes on."""
    from zolab.tiny.study import study

    study(options.plan, options.out, options.record)


def _make(name: str, command: str, model, tokenizer, known: list[Review], recipe: Recipe, options: argparse.Namespace) -> None:
    training = train(model, tokenizer, known, recipe)
    texts = [review.text for review in reviews("validation", critical=command == "derive")]
    record = {
        "name": name,
        "command": f"python -m zolab.tiny {command}",
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": training,
        "perplexity": perplexities(model, tokenizer, [review.text for review in known], texts),
        **{key: value for key, value in environment().items() if key != "commit"},
    }
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    write_atomically(options.out / "training.json", (json.dumps(record, indent=1) + "\n").encode())
    write_atomically(options.out / "README.md", card(record).encode())
    print(f"{name} is in {options.out}; perplexity a token {record['perplexity']['model']['token']:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab.tiny", description="Make and study the shipped small models.")
    commands = parser.add_subparsers(required=True)
    for command, name, default in (
        (train_command, "tiny-reviews", {"steps": Recipe().steps, "seed": Recipe().seed}),
        (derive_command, "tiny-reviews-critic", DERIVED),
    ):
        formatter = argparse.ArgumentDefaultsHelpFormatter
        making = commands.add_parser(command.__name__.split("_")[0], help=command.__doc__, formatter_class=formatter)
        making.add_argument("--out", type=Path, default=SHIPPED[name], help="folder of the model")
        making.add_argument("--steps", type=int, default=default["steps"], help="batches")
        making.add_argument("--seed", type=int, default=default["seed"], help="of weights and texts")
        making.add_argument("--threads", type=int, default=1, help="of torch; the shipped weights were made on one")
        making.set_defaults(run=command)
    studying = commands.add_parser("study", help=study_command.__doc__)
    studying.add_argument("plan", type=Path, help="YAML file of the plan; see zolab/sweep.py")
    studying.add_argument("--out", type=Path, required=True, help="folder of the runs")
    studying.add_argument("--record", type=Path, required=True, help="file of the record")
    studying.set_defaults(run=study_command, threads=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return reported(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
