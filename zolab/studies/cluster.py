"""A study's cells on Ray: on this machine, or on all machines of a cluster.

    python -m zolab study PLAN --out FOLDER --record FILE --runner ray
    python -m zolab study PLAN --out FOLDER --record FILE --runner ray --address HOST:6379

Plan, cells and records are those of any study, and the folder must lie on a disk that all machines see. A worker is an actor
with room for any cell of the plan. It keeps the libraries and the models, and runs one cell after another. A cell whose worker
ends goes on from its log on another one; a cell that fails is tried again, `RETRIES` times from where it stopped without
getting further, and then listed. If the whole cluster ends, the same command goes on when there is one again.
"""

import logging
import os
import socket
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import torch

from zolab.models import keep_models
from zolab.records import environment
from zolab.runs.config import require
from zolab.runs.joint import LOG
from zolab.studies.cells import Cell
from zolab.studies.needs import Needs, described
from zolab.studies.run import PLAN, Hire
from zolab.studies.workers import Tried, Workers, tried

RETRIES = 2
"""How often a cell is tried again that fails or loses its worker, before it has taken a step more than when it last did."""
SECONDS = 5.0  # that a cluster may take to accept a connection
PATIENCE = 120.0  # seconds without a free worker after which it is said that the cluster may have no room
STORE = 100 * 10**6  # bytes of a local Ray's store of objects, for which a study has no use
HANDED = ("ZOLAB_", "HF_")  # how variables begin that a cluster's workers take over; not the token of the Hub


def hire(needs: Needs, address: str | None = None, count: int | None = None) -> Hire:
    """What makes a study's workers on Ray, for `zolab.studies.run.run_study`.

    Args:
        needs: what a worker declares, and all that its cells may take.
        address: HOST:PORT of a cluster that is there, or "auto" for the one of this machine; by default one is started here.
        count: of workers; by default as many as have room.

    Raises:
        ValueError: Ray is not installed, or the address is none.
    """
    require(find_spec("ray") is not None, "Ray is not installed, which is an extra: pip install 'zolab[cluster]'.")
    if address not in (None, "auto"):
        _check_address(address)
    return partial(Actors, needs, address, count)


class Actors(Workers):
    """Workers that are actors of Ray.

    Args:
        needs, address, count: as for `hire`.
        out: folder of the cells.

    Raises:
        ValueError: a cell, or so many at once, have no room.
        OSError: the cluster cannot be reached, or its machines do not see the folder or have other versions.
    """

    def __init__(self, needs: Needs, address: str | None, count: int | None, out: Path):
        self.ray = _connected(address)
        try:
            super().__init__(_room(self.ray.nodes(), needs, count), out.resolve())
            self.actors: set[Any] = set()
            self.idle: SimpleQueue[Future] = SimpleQueue()
            self.lost = self.waiting = False  # whether the cluster is gone, and whether it was said that it has no room
            self.address = self.ray.get_runtime_context().gcs_address
            self.make = self.ray.remote(Actor).options(num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory)
            self.begun = str(self.out), os.getcwd(), (self.out / PLAN).read_text(), needs.cpus, environment()
            for _ in range(self.count):
                self._start()
            self.idle.put(self._first())
        except BaseException:
            self.ray.shutdown()
            raise

    def run(self, cell: Cell) -> Tried:
        steps, tries = _steps(self.out / cell.name), 0
        while True:
            attempt = outcome, error, seconds = self._try(cell)
            if outcome is not None or self.stopped:
                return attempt
            taken = _steps(self.out / cell.name)
            steps, tries = (taken, 1) if taken > steps else (steps, tries + 1)
            if tries > RETRIES:
                return None, f"{error} (tried {tries} times)", seconds

    def interrupt(self) -> None:
        for actor in [] if self.lost else list(self.actors):
            self.ray.kill(actor)
        for _ in range(self.count):
            self.idle.put(Future())  # wakes who waits for a worker

    def end(self) -> None:
        if not self.lost:
            self.ray.shutdown()

    def _try(self, cell: Cell) -> Tried:
        """The cell on the next worker that is free."""
        ready = self._next()
        if self.stopped:
            return None, "stopped", 0.0
        try:
            attempt = self.ray.get(ready.result().run.remote(cell))
        except self.ray.exceptions.RayError as error:
            self._check_there(error)
            self._start()
            return None, f"its worker ended: {_brief(error)}", 0.0
        self.idle.put(ready)
        return attempt

    def _check_there(self, error: Exception) -> None:
        """Raise OSError if the whole cluster ended, and not a worker alone."""
        self.lost = self.lost or not _answers(self.address)
        if self.lost:
            message = f"the Ray cluster at {self.address} ended: the same command goes on when there is one again."
            raise OSError(message) from error

    def _start(self) -> None:
        """Start a worker, which is put among the idle ones as soon as the cluster has room for it and it is ready."""
        threading.Thread(target=self._begin, daemon=True).start()  # which nothing waits for if the cluster has no room

    def _begin(self) -> None:
        ready: Future = Future()
        try:
            actor = self.make.remote()
            self.actors.add(actor)
            refused = self.ray.get(actor.begin.remote(*self.begun))
            if refused:
                raise OSError(refused)
            ready.set_result(actor)
        except Exception as error:  # for the thread that would have used it
            ready.set_exception(error)
        self.idle.put(ready)

    def _first(self) -> Future:
        """The first worker that is ready; so what makes all of them refuse ends the study before its runs."""
        ready = self._next()
        try:
            ready.result()
        except self.ray.exceptions.RayError as error:
            raise OSError(f"no worker could be started: {_brief(error)}") from error
        return ready

    def _next(self) -> Future:
        """A worker that is free, as soon as there is one."""
        while True:
            try:
                return self.idle.get(timeout=PATIENCE)
            except Empty:
                if not self.waiting:
                    print("not all workers are ready yet; waiting for room on the cluster", file=sys.stderr, flush=True)
                self.waiting = True


class Actor:
    """What runs cells on one of the cluster's machines."""

    def begin(self, out: str, folder: str, plan: str, threads: int, driver: dict[str, Any]) -> str | None:
        """Make ready for cells, or tell why that cannot be.

        Args:
            out: the study's folder.
            folder: in which the study was started, from which paths in its settings lead.
            plan: text of the plan in the study's folder.
            threads: of torch.
            driver: `zolab.records.environment` of the study.
        """
        machine, place = socket.gethostname(), Path(out) / PLAN
        if not (place.is_file() and place.read_text() == plan and Path(folder).is_dir()):
            return f"{machine} does not see {out} and {folder} as this machine does: they must lie on a disk that all share."
        os.chdir(folder)
        worker = environment()
        names = [name for name in driver["versions"] if driver["versions"][name] != worker["versions"].get(name)]
        names += ["zolab's source"] * (driver["commit"] != worker["commit"])
        if names:
            return f"{machine} has other versions of {', '.join(names)} than this machine: install the same on all."
        import_module("zolab.runs.finetune")  # what the first cell would wait for
        self.out = Path(out)
        torch.set_num_threads(threads)
        keep_models()
        return None

    def run(self, cell: Cell) -> Tried:
        return tried(cell, self.out)


def _connected(address: str | None) -> ModuleType:
    """Ray, connected to a cluster; without an address to one that is started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will have it soon; until then it warns
    if address is not None and (Path.home() / ".ray" / "auth_token").exists():  # by which Ray knows its users
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = import_module("ray")  # an extra, which may be absent
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    names = [name for name in os.environ if name.startswith(HANDED) and "TOKEN" not in name]
    variables = {"env_vars": {name: os.environ[name] for name in names}}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, object_store_memory=STORE, **quiet)
        else:
            ray.init(address, runtime_env=variables, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = "started here" if address is None else f"reached at {address}"
        raise OSError(f"Ray cannot be {where} ({_brief(error)}).") from error
    return ray


def _check_address(address: str) -> None:
    """Raise unless something accepts connections at HOST:PORT, which Ray itself would find out within a minute."""
    host, colon, port = address.rpartition(":")
    fits = bool(colon and host) and "/" not in host and port.isdecimal() and 0 < int(port) < 2**16
    message = (
        f"address is HOST:PORT, as `ray start --head` prints it, or auto for the cluster of this machine, not {address!r}."
    )
    require(fits, message)
    advice = "start one with `ray start --head`, or leave --address out for one on this machine alone"
    if not _answers(address):
        raise OSError(f"no Ray cluster answers at {address}: {advice}.")


def _answers(address: str) -> bool:
    """Whether something accepts connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except OSError:
        return False
    return True


def _room(nodes: list[dict[str, Any]], needs: Needs, count: int | None) -> int:
    """How many workers there will be. Raises ValueError if the machines have no room for so many, or for one."""
    machines = [tuple(node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU", "memory")) for node in nodes if node["Alive"]]
    most = sum(needs.fit(*machine) for machine in machines)
    largest = " or ".join(dict.fromkeys(described(*machine) for machine in sorted(machines, reverse=True)[:3]))
    require(most > 0, f"a run declares {needs}, and no machine of the cluster has so much: there are {largest}.")
    if count is None:
        return most
    require(type(count) is int and count >= 1, f"workers must be a whole number of at least 1, got {count!r}.")
    have = f"the cluster has room for {most} at once, each with {needs}"
    require(count <= most, f"workers is {count}, but {have}; give at most as many.")
    return count


def _steps(folder: Path) -> int:
    """How many steps a run has taken, as far as its log is written."""
    with suppress(OSError):
        return (folder / LOG).read_bytes().count(b'{"event": "step"')
    return 0


def _brief(error: Exception) -> str:
    """The first line of what Ray says that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
