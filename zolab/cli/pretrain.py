"""Pretrain a shipped small model from its recipe: tokenizer, weights, card; twelve minutes of one core for tiny-reviews."""

import argparse
from pathlib import Path

from zolab.tiny_reviews.recipe import RECIPES

EXAMPLE = "tiny-reviews --steps 20 --out runs/tiny-reviews"


def add_options(parser: argparse.ArgumentParser) -> None:
    def recipes(name: str) -> str:
        return ", ".join(f"{getattr(recipe, name)} for {model}" for model, recipe in RECIPES.items())

    parser.add_argument("model", choices=tuple(RECIPES), help="tiny-reviews is made from nothing, its critic from it")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="new folder for the model; by default the shipped one, in zolab/"
    )
    parser.add_argument("--steps", type=int, metavar="INTEGER", help=f"batches; by default {recipes('steps')}")
    parser.add_argument("--seed", type=int, metavar="INTEGER", help=f"of weights and texts; by default {recipes('seed')}")
    text = "of torch; the shipped weights were made on one"
    parser.add_argument("--threads", type=int, default=1, metavar="INTEGER", help=text)


def run(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from zolab.cli.threads import use_threads

    changes = {name: value for name in ("steps", "seed") if (value := getattr(options, name)) is not None}
    recipe = replace(RECIPES[options.model], **changes)
    if changes and not options.out:
        raise ValueError(f"the shipped model has its own {' and '.join(changes)}: give --out, a new folder, for another one.")
    use_threads(options.threads)
    from zolab.models import SHIPPED
    from zolab.records.files import new_folder
    from zolab.tiny_reviews.make import MAKERS

    if options.out is None:
        record = MAKERS[options.model](recipe, SHIPPED[options.model])
    else:
        with new_folder(options.out) as folder:
            record = MAKERS[options.model](recipe, folder)
    where, perplexity = options.out or SHIPPED[options.model], record["perplexity"]["model"]["token"]
    print(f"{options.model} is in {where}; perplexity a token {perplexity:.1f}")
