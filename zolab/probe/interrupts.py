"""Ctrl-C, Jupyter's stop button and every other signal arrive between passes over the weights, never inside one."""

import signal
import threading
from _signal import getsignal  # pyrefly: ignore[missing-import]  (without the conversion to an enum, which takes ten times as long)
from typing import Any

SIGNALS = tuple(map(int, signal.valid_signals()))
ATTEMPTS = 10  # at giving handlers back, each broken off by a handler that is back already


class DeferInterrupts:
    """Hold signals back while weights are being moved; deliver them between `allow()` and `hold()`, or at the end.

    Held are those that Python code handles, since its handler may raise: Ctrl-C, and whatever the host program listens to. A
    handler in C, as of a host that embeds Python, cannot raise and stays as it is. A signal that comes while another of its
    kind is held counts once, as everywhere.

    At most one handler raises before the weights are back: a delivery closes the gate, and only a handler that returns opens it
    again. Outside the main thread, where Python delivers no signals, all this does nothing.
    """

    def __enter__(self) -> "DeferInterrupts":
        self.open, self.over = False, False
        self.pending: dict[int, Any] = {}
        main = threading.current_thread() is threading.main_thread()
        self.hosts = {number: handler for number in SIGNALS if _is_held(number, handler := getsignal(number))} if main else {}
        try:
            for number in self.hosts:
                signal.signal(number, self._receive)
        except BaseException:  # of a handler that was not yet held
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.open = False
        try:
            self._give_back()
        finally:
            self.over = True
            self._deliver_all()

    def allow(self) -> None:
        """Let signals through from here on, those that were held back at once: the caller is ready to clean up."""
        self.open = True
        self._deliver()

    def hold(self) -> None:
        """Hold signals back again."""
        self.open = False

    def _receive(self, number: int, frame: Any) -> None:
        self.pending[number] = frame
        if self.over:  # this handler could not be given back
            self._deliver_all()
        else:
            self._deliver()

    def _deliver(self) -> None:
        while self.open and self.pending:
            self.open = False  # first: what arrives meanwhile must not raise beside what is delivered now
            self._call_next()
            self.open = True

    def _deliver_all(self) -> None:
        """Call every handler that is due, even if one before it raises."""
        if self.pending:
            try:
                self._call_next()
            finally:
                self._deliver_all()

    def _call_next(self) -> None:
        number, frame = self.pending.popitem()
        handler = self.hosts[number]
        (signal.default_int_handler if handler == signal.SIG_DFL else handler)(number, frame)

    def _give_back(self, attempts: int = ATTEMPTS) -> None:
        try:
            for number, handler in self.hosts.items():
                if getsignal(number) == self._receive:  # else the host has chosen another one meanwhile
                    signal.signal(number, handler)
        except BaseException:
            if attempts:
                self._give_back(attempts - 1)
            raise


def _is_held(number: int, handler: Any) -> bool:
    """Python's own handlers, and the end of the process by Ctrl-C, which becomes a KeyboardInterrupt."""
    return callable(handler) or (number == signal.SIGINT and handler == signal.SIG_DFL)
