"""What every command line of zolab does with errors."""

import sys
from collections.abc import Callable


def reported(command: Callable[[], None]) -> int:
    """Run a command and return its exit status; an error that a user can cause becomes one sentence, without a traceback."""
    try:
        command()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what a run has logged.", file=sys.stderr)
        return 130
    return 0
