"""What every command line of zolab does with errors."""

import sys
from collections.abc import Callable

LONGEST = 1000  # letters of a sentence


def reported(command: Callable[[], None]) -> int:
    """Run a command and return its exit status; an error that a user can cause becomes one sentence, without a traceback."""
    try:
        command()
    except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what a run has logged.", file=sys.stderr)
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose smaller numbers or a smaller model."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
