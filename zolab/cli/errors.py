"""What every command line of zolab does with errors."""

import os
import sys
from collections.abc import Callable

CAUSED = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError)  # by what a user gave
LONGEST = 1000  # letters of a sentence


def reported(command: Callable[[], None], stopped: str = "") -> int:
    """Run a command and return its exit status; an error that a user can cause becomes one sentence, without a traceback.

    Args:
        command: what is run.
        stopped: what is said after Ctrl-C of the next start.
    """
    try:
        command()
    except (Exception, KeyboardInterrupt) as error:
        if _interrupted(error):
            print(f"stopped; {stopped}" if stopped else "stopped.", file=sys.stderr)
            return 130
        if isinstance(error, BrokenPipeError):  # whoever reads the output, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        if not isinstance(error, CAUSED):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the root of an error: some libraries turn it into one of theirs while they are imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose smaller numbers or a smaller model."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
