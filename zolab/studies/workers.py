"""Cells in processes of one thread each, which keep libraries and data: a run that is killed takes no other with it."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from zolab.studies.cells import Cell

Tried = tuple[dict[str, Any] | None, str | None, float]
PRELOADED = ["zolab.studies.workers", "zolab.runs.finetune"]


def tried(cell: Cell, out: Path) -> Tried:
    """A cell's outcome or why there is none, and the seconds that it took."""
    began = time.perf_counter()
    try:
        return cell.run(out), None, time.perf_counter() - began
    except Exception as error:  # one cell must not cost the others: it is listed, and the next call tries it again
        return None, f"{type(error).__name__}: {error}", time.perf_counter() - began


class Processes:
    """So many cells at once, each process running one after another.

    Args:
        count: of processes.
        out: folder of the cells.
    """

    def __init__(self, count: int, out: Path):
        self.out, self.stopped = out, False
        self.running: dict[int, tuple[Any, Any]] = {}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="zolab-cell")

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:  # Ctrl-C, or a full disk: what runs can be taken up again
            self.stopped = True
            for process, _ in list(self.running.values()):
                process.terminate()
        self.threads.shutdown(cancel_futures=True)
        for process, pipe in self.running.values():
            pipe.close()
            process.join()

    def submit(self, cell: Cell) -> Future:
        return self.threads.submit(self._run, cell)

    def _run(self, cell: Cell) -> Tried:
        if self.stopped:
            return None, "stopped", 0.0
        if cell.state(self.out) == "complete":
            return tried(cell, self.out)
        process, pipe = self._process()
        try:
            pipe.send(cell)
            return pipe.recv()
        except (EOFError, OSError):
            process.join()
            del self.running[threading.get_ident()]
            return None, f"its process ended with exit code {process.exitcode}", 0.0

    def _process(self) -> tuple[Any, Any]:
        """That of this thread; a new one after one that ended."""
        place = threading.get_ident()
        if place not in self.running:
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=_work, args=(self.out, theirs), daemon=True)
            process.start()
            theirs.close()
            self.running[place] = process, ours
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
