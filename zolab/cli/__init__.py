"""The command line: `python -m zolab COMMAND`, a file for each command.

A command is a module of this folder: its docstring's first line is what the help says, `EXAMPLE` is what follows the command's
name in a call that runs, `add_options` adds to a parser, and `run` does the work. It is light to import: what is heavy, torch
among it, is imported by `run`, so that `--help` answers at once.
"""

# The row that makes a module a command, in the order of the list that `python -m zolab` shows.
COMMANDS = (
    "finetune",
    "evaluate",
    "replay",
    "verify",
    "study",
    "watch",
    "metatrain",
    "evolve",
    "measure",
    "map",
    "published",
    "pretrain",
    "ship",
    "results",
)
