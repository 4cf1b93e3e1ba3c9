"""Cells in processes of one thread each, which keep libraries and data: a run that is killed takes no other with it."""

import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from zolab.runs.config import require
from zolab.studies.cells import Cell

Tried = tuple[dict[str, Any] | None, str | None, float]
PRELOADED = ["zolab.studies.workers", "zolab.runs.finetune"]
CELLS = 100  # of a process, before another takes its place: tokenizers keeps 2 MB of each tokenizer that is let go of


def check_workers(workers: int) -> None:
    """Raise ValueError unless it is a number of workers, on whatever machine."""
    require(type(workers) is int and workers >= 1, f"workers must be a whole number of at least 1, got {workers!r}.")


def check_here(workers: int) -> None:
    """Raise ValueError unless this process can have so many workers."""
    check_workers(workers)
    cores = os.cpu_count() or 1
    require(workers <= cores, f"workers is {workers}, but this machine has {cores} cores; give at most as many.")
    message = "a study has processes of its own: start it without torchrun or accelerate launch, but with --workers."
    require(int(os.environ.get("WORLD_SIZE", "1")) < 2, message)


def tried(cell: Cell, out: Path) -> Tried:
    """A cell's outcome or why there is none, and the seconds that it took."""
    began = time.perf_counter()
    try:
        return cell.run(out), None, time.perf_counter() - began
    except Exception as error:  # one cell must not cost the others: it is listed, and the next call tries it again
        return None, f"{type(error).__name__}: {error}", time.perf_counter() - began


class Workers(ABC):
    """So many cells at once, each worker running one after another. What a worker of one kind is, a subclass says.

    Args:
        count: of workers.
        out: folder of the cells.
    """

    def __init__(self, count: int, out: Path):
        self.count, self.out, self.stopped = count, out, False
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="zolab-cell")

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:  # Ctrl-C, or a full disk: what runs can be taken up again
            self.stopped = True
            self.interrupt()
        self.threads.shutdown(cancel_futures=True)
        self.end()

    def submit(self, cell: Cell) -> Future:
        """What the cell comes to, as `tried` has it, in the future."""
        return self.threads.submit(self._run, cell)

    def _run(self, cell: Cell) -> Tried:
        if self.stopped:
            return None, "stopped", 0.0
        return tried(cell, self.out) if cell.state(self.out) == "complete" else self.run(cell)

    @abstractmethod
    def run(self, cell: Cell) -> Tried:
        """Run a cell on this thread's worker, and wait for it."""

    @abstractmethod
    def interrupt(self) -> None:
        """End what runs."""

    @abstractmethod
    def end(self) -> None:
        """Let go of the workers, when none of them runs a cell any more."""


class Processes(Workers):
    """Workers that are processes of this machine, of one thread each."""

    def __init__(self, count: int, out: Path):
        super().__init__(count, out)
        self.running: dict[int, tuple[Any, Any]] = {}
        self.cells: Counter[int] = Counter()  # of each that runs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def interrupt(self) -> None:
        for process, _ in list(self.running.values()):
            process.terminate()

    def end(self) -> None:
        for place in list(self.running):
            self._end(place)

    def run(self, cell: Cell) -> Tried:
        process, pipe = self._process()
        try:
            pipe.send(cell)
            return pipe.recv()
        except (EOFError, OSError):
            self._end(threading.get_ident())
            return None, f"its process ended with exit code {process.exitcode}", 0.0

    def _end(self, place: int) -> None:
        """Let a process end, which has nothing to do."""
        process, pipe = self.running.pop(place)
        pipe.close()
        process.join()

    def _process(self) -> tuple[Any, Any]:
        """That of this thread; a new one after one that ended, or has run as many cells as it may."""
        place = threading.get_ident()
        if place in self.running and self.cells[place] == CELLS:
            self._end(place)
        if place not in self.running:
            self.cells[place] = 0
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=_work, args=(self.out, theirs), daemon=True)
            process.start()
            theirs.close()
            self.running[place] = process, ours
        self.cells[place] += 1
        return self.running[place]


def _work(out: Path, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            cell = pipe.recv()
        except EOFError:  # no more cells
            return
        pipe.send(tried(cell, out))


def _end_with_parent() -> None:
    """A study that is killed leaves no run behind that would hold its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
