"""The log of a run: one JSON line an event, appended as it happens. It is the run's memory when the process dies.

A killed process loses at most the line it was writing; that torn line is dropped when the run goes on. Weights need not be
in the log: a step is its projected gradients, so the steps since the last checkpoint are replayed from here.

Each line ends in a checksum of itself and of the lines before it, so a log that was changed, or lacks a line, is noticed. The
first line names the log, so that files of another run in the folder are noticed, too.
"""

import fcntl
import json
import os
import secrets
import stat
import zlib
from pathlib import Path
from typing import Any

from zolab.records.files import LARGEST, parse_json, sweep, temporary_for

MARK = b', "crc": "'

PLAN = "plan.json"  # in the folder of a study


class RunLog:
    """An append-only file of events that one process at a time may hold.

    Args:
        path: the file; made if it does not exist. What killed processes left half-written beside it is removed.
        unread: leave what the file holds unread, for a run that will `clear` it.

    Attributes:
        events: all events, in order.
        id: names the log; None in one that is older than its checksums.

    Raises:
        OSError: the folder is a study's or cannot be written to, another process is running in it, or the file is a link or no
            regular file.
        ValueError: a line before the last is damaged.
    """

    def __init__(self, path: str | os.PathLike, unread: bool = False):
        self.path = Path(path)
        self.events: list[dict[str, Any]] = []
        self.id: str | None = None
        self.checksum = 0
        if (self.path.parent / PLAN).exists() and not self.path.exists():
            raise OSError(f"{self.path.parent} is the folder of a study; choose another one for a run.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self._locked()
        except BlockingIOError as error:
            raise OSError(f"another process is running in {self.path.parent}; wait for it or choose another folder.") from error
        except OSError as error:
            raise OSError(f"cannot write to {self.path} ({error}); choose another folder with --out.") from error
        try:
            sweep(self.path.parent)
            if not unread:
                self._read()
        except (OSError, ValueError):
            os.close(self.file)
            raise

    @property
    def old(self) -> bool:
        """Whether its lines are without checksums."""
        return bool(self.events) and self.id is None

    def append(self, event: str, **fields: Any) -> None:
        """Write one event; it survives the death of the process.

        Raises:
            OSError: the disk is full, or the folder was removed while the run went on; the events before this one are intact.
        """
        self._check_place()
        if not self.events:
            self.id = secrets.token_hex(8)
            self._write("log", id=self.id)
        self._write(event, **fields)

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of a kind, in order."""
        return [entry for entry in self.events if entry["event"] == event]

    def clear(self) -> None:
        """Begin anew with an empty file in the place of this one; a process that is killed here leaves one or the other."""
        temporary = temporary_for(self.path)
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.replace(temporary, self.path)
        os.close(self.file)
        self.file, self.events, self.id, self.checksum = file, [], None, 0

    def close(self) -> None:
        """Let go of the file; a log in which nothing happened leaves none."""
        if not os.fstat(self.file).st_size and self._in_place():
            self.path.unlink(missing_ok=True)
        os.close(self.file)

    def _locked(self) -> int:
        """The open file, held by this process, and not one that was replaced or removed meanwhile."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError("it is no regular file")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self.file = file
            if self._in_place():
                return file
            os.close(file)

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _check_place(self) -> None:
        if not self._in_place():
            raise OSError(f"{self.path} was removed or replaced while the run went on; the run is lost: start it again.")

    def _write(self, event: str, **fields: Any) -> None:
        entry = {"event": event, **fields}
        body = json.dumps(entry, allow_nan=False).encode()[:-1]
        checksum = zlib.crc32(body, self.checksum)
        line = body + (b"}\n" if self.old else MARK + f'{checksum:08x}"}}\n'.encode())
        size = os.fstat(self.file).st_size
        try:
            written = os.write(self.file, line)
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
        except OSError as error:
            os.ftruncate(self.file, size)
            raise OSError(f"could not write to {self.path} ({error}); free some space and start the run again.") from error
        self.events.append(entry)
        self.checksum = checksum

    def _read(self) -> None:
        size = os.fstat(self.file).st_size
        if size > LARGEST:
            raise ValueError(f"{self.path} has {size:,} bytes, more than a log has; restore it, or choose another folder.")
        content = os.pread(self.file, size, 0)
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            try:
                self.events.append(self._entry(line, number))
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"line {number} of {self.path} is damaged ({error}); restore the file, or start afresh with --overwrite."
                ) from error
        os.ftruncate(self.file, whole)

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        body, mark, end = line.rpartition(MARK)
        if mark:
            self.checksum = zlib.crc32(body, self.checksum)
            if end != f'{self.checksum:08x}"}}'.encode():
                raise ValueError("its checksum is that of other content, or a line before it is missing")
        entry = parse_json(body + b"}" if mark else line)
        if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
            raise ValueError("it is no event")
        if number == 1 and mark:
            self.id = str(entry["id"])
        if bool(mark) != bool(self.id):
            raise ValueError("it has no checksum" if self.id else "it has a checksum, but the first line has none")
        return entry
