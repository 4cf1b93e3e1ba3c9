"""Ctrl-C (or Jupyter's stop button) arrives between passes over the weights, never inside one."""

import signal
import threading
from contextlib import contextmanager


class DeferInterrupts:
    """Hold SIGINT back while weights are being moved; deliver it inside `allowed()` or at the end.

    Outside the main thread, where Python delivers no signals, this does nothing.
    """

    def __enter__(self) -> "DeferInterrupts":
        self.pending = None
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:
            self.previous = signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(self, *_):
        if self.active:
            signal.signal(signal.SIGINT, self.previous)
            self._deliver()

    @contextmanager
    def allowed(self):
        """Interrupts pass through inside this block: the caller is ready to clean up."""
        if not self.active:
            yield
            return
        signal.signal(signal.SIGINT, self.previous)
        try:
            self._deliver()
            yield
        finally:
            signal.signal(signal.SIGINT, self._hold)

    def _hold(self, *arguments):
        self.pending = arguments

    def _deliver(self):
        arguments, self.pending = self.pending, None
        if arguments and callable(self.previous):
            self.previous(*arguments)
