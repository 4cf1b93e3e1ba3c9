"""Ctrl-C (or Jupyter's stop button) arrives between passes over the weights, never inside one."""

import signal
import threading
from typing import Any


class DeferInterrupts:
    """Hold SIGINT back while weights are being moved; deliver it between `allow()` and `hold()`, or at the end.

    Outside the main thread, where Python delivers no signals, this does nothing.
    """

    def __enter__(self) -> "DeferInterrupts":
        self.pending, self.open = None, False
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:
            self.previous = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.previous)
            self.allow()

    def allow(self) -> None:
        """Let interrupts through from here on, one that was held back at once: the caller is ready to clean up."""
        self.open = True
        if self.pending:
            self._receive(*self.pending)

    def hold(self) -> None:
        """Hold interrupts back again."""
        self.open = False

    def _receive(self, *arguments) -> None:
        self.pending = None if self.open else arguments
        if self.open and self.previous is not signal.SIG_IGN:
            deliver: Any = signal.default_int_handler if self.previous is signal.SIG_DFL else self.previous
            deliver(*arguments)
