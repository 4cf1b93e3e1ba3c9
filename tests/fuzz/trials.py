"""Changed inputs loaded in forked processes, with limits of time and memory, so that the worst is one finding."""

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from .loaders import Loader
from .mutations import mutated

SECONDS, PATIENCE = 5.0, 60.0  # of a process's own time, and of the clock on a busy machine
MEMORY = 200_000_000  # bytes beyond the file's own size
SPACE = 4_000_000_000  # bytes of addresses beyond what the process has: a safety net for the machine
SEAL = (b'"sealed"', b'"digest"')
LENGTH = 1000  # characters of a sentence
RIGHT = ("refused", "same", "other")  # "other" where nothing says what was written
CAUGHT = (ValueError, OSError, RuntimeError, ArithmeticError)  # by `zolab.cli.errors.reported`
BARE = (RecursionError, NotImplementedError, UnicodeError, json.JSONDecodeError)  # of those, what no sentence was written for


@dataclass(frozen=True)
class Case:
    """One input: `number` of a loader's, from a seed; `only` one of its changes, or a file's `content` as it is."""

    loader: Loader
    seed: int
    number: int
    only: int | None = None
    content: tuple[str, bytes] | None = None

    def changed(self, base: Path) -> tuple[str, bytes, bool]:
        """Name and content of the file that differs, and whether its digests were made anew, or it lost its seal: then it is
        as files were before they had any."""
        if self.content:
            return *self.content, True
        source = random.Random(f"{self.seed} {self.loader.name} {self.number}")
        name = source.choice(sorted(self.loader.files))
        reseal = source.random() < 0.3
        valid = (base / name).read_bytes()
        content = mutated(valid, self.loader.files[name], source, reseal, self.only)
        return name, content, reseal or any(mark in valid for mark in SEAL) > any(mark in content for mark in SEAL)


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `kind`, the sentence or traceback, and `place`, which tells findings apart."""

    case: Case
    kind: str
    message: str = ""
    place: str = ""

    @property
    def right(self) -> bool:
        return self.kind in RIGHT


class Trials:
    """A loader with its valid input and what that is loaded as."""

    def __init__(self, loader: Loader):
        self.loader, self.folder = loader, Path(mkdtemp(prefix=f"zolab-fuzz-{loader.name}-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.base = self.folder / "valid"
        self.base.mkdir()
        loader.make(self.base)
        self.expected = {name: loader.load(self._copy(), name) for name in loader.files}

    def run(self, cases: list[Case]) -> Iterator[Outcome]:
        """The outcome of each case, in order; a process that dies or hangs is followed by another one."""
        while cases:
            done = 0
            for outcome in self._batch(cases):
                done += 1
                yield outcome
            cases = cases[done:]

    def _copy(self) -> Path:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.base, work)
        return work

    def _batch(self, cases: list[Case]) -> Iterator[Outcome]:
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(reading)
            self._work(cases, writing)
        os.close(writing)
        buffer = b""
        try:
            for case in cases:
                while b"\n" not in buffer:
                    part = _answer(reading, child)
                    if part is None:
                        yield Outcome(case, "hang", f"it took more than {SECONDS:.0f} s", "hang")
                        return
                    if not part:  # its end
                        status, child = os.waitpid(child, 0)[1], 0
                        yield Outcome(case, "crash", f"its process ended with {os.waitstatus_to_exitcode(status)}", "crash")
                        return
                    buffer += part
                line, _, buffer = buffer.partition(b"\n")
                yield (outcome := Outcome(case, **json.loads(line)))
                if outcome.kind == "fuzzer":
                    return
        finally:
            os.close(reading)
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def _work(self, cases: list[Case], writing: int) -> None:
        """In the child: try every case, and never come back."""
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
            for case in cases:
                os.write(writing, json.dumps(self._outcome(case)).encode() + b"\n")
        except BaseException as error:  # of the fuzzer itself
            os.write(writing, json.dumps({"kind": "fuzzer", "message": _trace(error), "place": _place(error)}).encode() + b"\n")
        finally:
            os._exit(0)

    def _outcome(self, case: Case) -> dict[str, str]:
        name, content, resealed = case.changed(self.base)
        folder = self._copy()
        (folder / name).write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        outcome = self._loaded(folder, name, resealed)
        memory = _status("VmHWM") - before - len(content)
        if memory > MEMORY and outcome["kind"] in RIGHT:
            return {"kind": "memory", "message": f"it took {memory / 1e6:.0f} MB; {outcome['message']}", "place": "memory"}
        return outcome

    def _loaded(self, folder: Path, name: str, resealed: bool) -> dict[str, str]:
        try:
            loaded = self.loader.load(folder, name)
        except CAUGHT as error:
            if not isinstance(error, BARE) and str(error).strip():
                return {"kind": "refused", "message": str(error)[:LENGTH]}  # the command line shows no more, either
            return {"kind": "bare", "message": _trace(error), "place": _place(error)}
        except BaseException as error:  # a panic of a library in Rust is not even an Exception
            return {"kind": "traceback", "message": _trace(error), "place": _place(error)}
        if self.loader.same(loaded, self.expected[name]):
            return {"kind": "same", "message": ""}
        if self.loader.sealed and not resealed:
            return {"kind": "silent", "message": f"{str(loaded)[:300]} is not {str(self.expected[name])[:300]}", "place": name}
        return {"kind": "other", "message": ""}


def _answer(reading: int, child: int) -> bytes | None:
    """What a child writes next, nothing at its end; None if that takes too long."""
    began, before = time.monotonic(), _busy(child)
    while not select.select([reading], [], [], 0.1)[0]:
        if _busy(child) - before > SECONDS or time.monotonic() - began > PATIENCE:
            return None
    return os.read(reading, 1 << 16)


def _busy(child: int) -> float:
    """Seconds of the processor's time that a process has taken."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return "".join(line[:800] for line in lines[:1] + lines[-8:])[-3500:]


def _place(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/zolab/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    return f"{type(error).__name__} {where}"
