"""`python -m zolab COMMAND ...`: finds the command among those of `zolab.cli` and runs it."""

import sys
from functools import partial

from zolab.cli.errors import reported

FOLLOWS = {
    "finetune": "the same command goes on from what the run has logged; with a first-order optimizer it begins again.",
    "metatrain": "the same command goes on from its last period.",
    **dict.fromkeys(("study", "evolve", "map"), "the same command goes on from what has been logged."),
    "watch": "",
}
"""What Ctrl-C leaves to the next start of a command; others begin again."""


def main(words: list[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return its exit status."""
    words = sys.argv[1:] if words is None else words
    follows = FOLLOWS.get(words[0] if words else "", "the same command begins again.")
    return reported(partial(_run, words), "without --overwrite, " * ("--overwrite" in words) + follows)


def _run(words: list[str]) -> None:
    import shlex  # all but the least is imported in here, where Ctrl-C has its sentence

    from zolab.cli import COMMANDS
    from zolab.cli.parser import module_of, parser_of, program_parser

    if not words:
        program_parser().print_help()
        return
    name = words[0] if words[0] in COMMANDS else program_parser().parse_args(words[:1]).command
    options = parser_of(name).parse_args(words[1:])
    from zolab.records import record  # only now: --help must not wait for it

    record.command = shlex.join(["python", "-m", "zolab", *_without_folders(words)])
    module_of(name).run(options)


def _without_folders(words: list[str]) -> list[str]:
    """A command line as records may keep it: of a path from the root of a machine, the last part; texts stay as they are."""
    from pathlib import Path

    from zolab.cli.own_data import LISTS, OPTIONS

    kept, texts = [], 0  # how many words are texts of an option
    for word in words:
        start = word.find("=") + 1 if word.startswith("--") else 0
        if word.startswith("--"):
            begun = word[2 : start - 1 if start else None]
            named = [begun] if begun in OPTIONS else [option for option in OPTIONS if begun and option.startswith(begun)]
            texts = 0 if not named else len(words) if set(named) & set(LISTS) else 1
        is_path = not texts and Path(word[start:]).is_absolute()
        kept.append(word[:start] + (Path(word[start:]).name if is_path else word[start:]))
        texts -= bool(texts and (start or not word.startswith("--")))
    return kept


if __name__ == "__main__":
    sys.exit(main())
