"""The log of a run: one JSON line an event, appended as it happens. It is the run's memory when the process dies.

A killed process loses at most the line it was writing; that torn line is dropped when the run goes on. Weights need not be
in the log: a step is its projected gradients, so the steps since the last checkpoint are replayed from here.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class RunLog:
    """An append-only file of events that one process at a time may hold.

    Args:
        path: the file; made if it does not exist.
        unread: leave what the file holds unread, for a run that will `clear` it.

    Raises:
        OSError: the folder cannot be written to, or another process is running in it.
        ValueError: a line before the last is damaged.
    """

    def __init__(self, path: str | os.PathLike, unread: bool = False):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (held until close)
        except OSError as error:
            raise OSError(f"cannot write to {self.path.parent} ({error}); choose another folder with --out.") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.events = [] if unread else self._read()
        except BlockingIOError as error:
            self.file.close()
            raise OSError(f"another process is running in {self.path.parent}; wait for it or choose another folder.") from error
        except ValueError:
            self.file.close()
            raise

    def append(self, event: str, **fields: Any) -> None:
        """Write one event; it survives the death of the process."""
        entry = {"event": event, **fields}
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.events.append(entry)

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of a kind, in order."""
        return [entry for entry in self.events if entry["event"] == event]

    def clear(self) -> None:
        self.file.truncate(0)
        self.events = []

    def close(self) -> None:
        """Let go of the file; a log in which nothing happened leaves none."""
        if not os.fstat(self.file.fileno()).st_size:
            self.path.unlink(missing_ok=True)
        self.file.close()

    def _read(self) -> list[dict[str, Any]]:
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b"\n") + 1
        events = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                events.append(json.loads(line))
                events[-1]["event"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {self.path} is damaged ({error}); restore the file, or start afresh with --overwrite."
                ) from error
        self.file.truncate(whole)
        return events
