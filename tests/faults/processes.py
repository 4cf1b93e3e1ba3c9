"""Command lines in real processes, which can be killed: forked from one that has its libraries, so that many take no time."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

PRELOADED = ["zolab.runs.finetune", "zolab.l2l.train", "zolab.l2l.evolution", "zolab.studies.run", "processes"]


class Process:
    """`python -m zolab WORDS` in a process of its own, and of one thread.

    Args:
        words: of the command.
        output: file for what it prints.
        limit: bytes beyond which it can write no file, as on a full disk.
    """

    def __init__(self, words, output, limit=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.output = Path(output)
        self.process = context.Process(target=_work, args=(list(map(str, words)), str(output), limit))
        self.process.start()

    @property
    def printed(self):
        return self.output.read_text()

    def wait(self, seconds=300):
        """Its exit status, negative for the signal that ended it; None if it still runs."""
        self.process.join(seconds)
        return self.process.exitcode

    def send(self, number=signal.SIGKILL):
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def end(self):
        """Kill it, and its children."""
        self.send(signal.SIGKILL)
        return self.wait()


def _work(words, output, limit):
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that it is an OSError, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    import torch

    from zolab.__main__ import main

    torch.set_num_threads(1)
    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def eventually(holds, seconds=240):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
