"""The command line: `python -m zolab COMMAND`, a file for each group of commands."""
