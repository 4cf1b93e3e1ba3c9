"""Data of one's own on the command line: the options that make a task of a file, for every command that takes tasks."""

import argparse

OPTIONS = ("prompt", "candidates", "answer", "label", "labels")
LISTS = ("candidates", "labels")  # those that take several words


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `zolab.tasks.Description`."""
    about = (
        "for a task that is a .jsonl, .csv or .parquet file with named columns,\n"
        "of which a fifth is held out for testing, or a folder of such files:\n"
        "train, test and perhaps validation"
    )
    group = parser.add_argument_group("data of your own", about)
    prompt = "text before the answer, with columns' names in braces, such as '{text} It was'"
    candidates = "texts to choose from: ' terrible' ' great', or with columns of their own: '{choice1}' '{choice2}'"
    label = "column that says which candidate is right, by its number from 0 or its text; label by default"
    labels = "what stands in that column instead, in the order of the candidates"
    group.add_argument("--prompt", metavar="TEXT", help=prompt)
    group.add_argument("--candidates", nargs="+", metavar="TEXT", help=candidates)
    group.add_argument("--answer", metavar="TEXT", help="instead of candidates, the text to write, such as '{answer}'")
    group.add_argument("--label", metavar="COLUMN", help=label)
    group.add_argument("--labels", nargs="+", metavar="TEXT", help=labels)


def described(options: argparse.Namespace, names: list[str]) -> list[str]:
    """Names of tasks as configurations have them: a file or folder is described by the options, which leave the namespace.

    Raises:
        ValueError: there are such options and no file, or they do not make a task of one.
    """
    from pathlib import Path

    from zolab.tasks import Description
    from zolab.tasks.files import SUFFIXES

    options_given = {name: value for name in OPTIONS if (value := vars(options).pop(name))}
    files = [name for name in names if Path(name).suffix in SUFFIXES or ("prompt" in options_given and Path(name).is_dir())]
    if options_given and not files:
        raise ValueError(
            f"--{next(iter(options_given))} is for a file of your own ({', '.join(SUFFIXES)}); name one as the task."
        )
    if files and "prompt" not in options_given:
        raise ValueError(f"{files[0]} needs --prompt '{{text}} It was', say, and --candidates or --answer, to be a task.")
    return [str(Description.of({"data": name} | options_given)) if name in files else name for name in names]


def describe_tasks(options: argparse.Namespace) -> None:
    """The same for `--tasks`, names with commas between them, which stay as they are written unless one is a file."""
    import os

    from zolab.l2l.config import TaskNames

    alone = os.path.exists(options.tasks)  # a file whose name may have commas in it
    names = [options.tasks] if alone else TaskNames(options.tasks).task_names
    described_names = described(options, names)
    if described_names != names:
        options.tasks = ",".join(described_names)
