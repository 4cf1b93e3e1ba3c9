"""`python -m zolab COMMAND ...`: finds the command among those of `zolab.cli` and runs it."""

import sys
from functools import partial

from zolab.cli.errors import reported


def main(words: list[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return its exit status."""
    return reported(partial(_run, sys.argv[1:] if words is None else words))


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

    record.command = shlex.join(["python", "-m", "zolab", *map(_without_folder, words)])
    module_of(name).run(options)


def _without_folder(word: str) -> str:
    """A word of a command line as records may keep it: of a path from the root of a machine, the last part."""
    from pathlib import Path

    start = word.find("=") + 1 if word.startswith("--") else 0
    return word[:start] + (Path(word[start:]).name if Path(word[start:]).is_absolute() else word[start:])


if __name__ == "__main__":
    sys.exit(main())
