"""`python -m zolab COMMAND ...`: finds the command among those of `zolab.cli` and runs it."""

import sys
from functools import partial

from zolab.cli.errors import reported

GOES_ON = {
    "finetune": "the same command goes on from what the run has logged; one with a first-order optimizer begins again.",
    **dict.fromkeys(("study", "metatrain", "evolve", "map"), "the same command goes on from what has been logged."),
}


def main(words: list[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return its exit status."""
    words = sys.argv[1:] if words is None else words
    return reported(partial(_run, words), GOES_ON.get(words[0] if words else "", "the same command begins again."))


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

    from zolab.cli.own_data import OPTIONS

    kept, option = [], ""
    for word in words:
        start = word.find("=") + 1 if word.startswith("--") else 0
        option = word[2 : start - 1 if start else None] if word.startswith("--") else option
        is_path = option not in OPTIONS and Path(word[start:]).is_absolute()
        kept.append(word[:start] + (Path(word[start:]).name if is_path else word[start:]))
    return kept


if __name__ == "__main__":
    sys.exit(main())
