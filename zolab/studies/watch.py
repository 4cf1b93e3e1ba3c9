"""How the runs of a folder are getting on, read from their logs: while they go on or later, here or over a shared disk.

Nothing is locked, loaded or changed, so that any number of people may watch.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from zolab.records.files import parse_json, read_json
from zolab.records.sealed import unseal
from zolab.runs.joint import LOG
from zolab.studies.cells import OUTCOME
from zolab.studies.run import FAILED, LOCK, PLAN

END = 1 << 16  # bytes of a log's end that are read: some hundred steps
QUIET = 120.0  # seconds without a line after which a run elsewhere counts as stopped, or 20 of its steps if that is longer
ROWS = 12  # runs of a kind that are shown


@dataclass(frozen=True)
class Progress:
    """Of one run.

    Args:
        name: its folder, seen from the one that is watched.
        state: done, running, stopped or failed. It runs if a process here holds its log, or if the log was written to lately.
        step, steps: taken, and in all; 0 in all if the log does not say.
        seconds: that it has run.
        forwards: passes of its steps so far; 0 before the first evaluation that tells.
        train: loss of the last step, in nats; None before it.
        dev: loss of the last evaluation on dev.
        error: why it failed or diverged.
    """

    name: str
    state: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    forwards: float = 0.0
    train: float | None = None
    dev: float | None = None
    error: str = ""

    @property
    def left(self) -> float | None:
        """Seconds that its remaining steps will take."""
        return (self.steps - self.step) * self.seconds / self.step if self.step and self.steps else None


@dataclass(frozen=True)
class Overview:
    """Of all runs of a folder.

    Args:
        runs: those that have begun, by name.
        planned: how many there will be, at least and at most; None of a folder without a plan.
        going: a study runs in the folder, on this machine.
    """

    runs: tuple[Progress, ...]
    planned: tuple[int, int] | None
    going: bool = False

    def of(self, state: str) -> list[Progress]:
        return [run for run in self.runs if run.state == state]

    @property
    def forwards_a_second(self) -> float:
        """Of all runs that go on, together."""
        return sum(run.forwards / run.seconds for run in self.of("running") if run.seconds)

    @property
    def left(self) -> float | None:
        """Seconds until all is done, if those to come take as long as those that are done, and as many run at once as now."""
        running, done = self.of("running"), [run for run in self.of("done") if run.seconds]
        known = [run.left for run in running if run.left is not None]
        if not running or len(known) < len(running):
            return None
        to_come = (self.planned[1] if self.planned else len(self.runs)) - len(self.of("done")) - len(running)
        if to_come > 0 and not done:
            return None
        return max(max(known), (sum(known) + max(to_come, 0) * mean(run.seconds for run in done or running)) / len(running))


class Watch:
    """Looks at a folder again and again, and reads only what may have changed since.

    Args:
        folder: of a study, of several runs, or of one.

    Raises:
        OSError: there is no such folder.
        ValueError: it has neither runs nor a plan.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise OSError(f"there is no folder {self.folder}.")
        self.ended, self.planned = dict[Path, Progress](), planned(self.folder)
        if self.planned is None and next(self._folders(), None) is None:
            raise ValueError(f"{self.folder} has no runs and no plan of a study; give the folder after --out.")

    def look(self) -> Overview:
        """As it is now; of runs one folder deeper, which no plan counts, those that are not done."""
        held = _held_files()
        read = (self.ended.get(folder) or self._read(folder, held) for folder in self._folders())
        runs = {run.name: run for run in read if run and not (os.sep in run.name and run.state == "done")}
        for name, error in self._failed().items():
            if name not in runs or runs[name].state == "stopped":
                runs[name] = replace(runs.get(name, Progress(name, "failed")), state="failed", error=error)
        return Overview(tuple(runs[name] for name in sorted(runs)), self.planned, _held(self.folder / LOCK, held))

    def _failed(self) -> dict[str, str]:
        try:
            lists = [read_json(path) for path in self.folder.glob(FAILED.format("*"))]
        except FileNotFoundError:  # one was removed between two looks
            return {}
        return {entry["cell"]: entry["error"] for listed in lists for entry in listed}

    def _folders(self) -> Iterator[Path]:
        """The folder itself, those in it, and those one below: a study keeps the training of fine-tuners there."""
        if (self.folder / LOG).exists():
            yield self.folder
            return
        for entry in _subfolders(self.folder):
            inside = {name.name for name in os.scandir(entry)} if Path(entry) not in self.ended else {OUTCOME}
            if inside & {LOG, OUTCOME}:
                yield Path(entry)
            else:
                yield from (Path(below) for below in _subfolders(entry) if (Path(below) / LOG).exists())

    def _read(self, folder: Path, held: set[int]) -> Progress | None:
        name = str(folder.relative_to(self.folder)) if folder != self.folder else folder.name
        try:
            run = _from_outcome(folder / OUTCOME, name) if (folder / OUTCOME).exists() else _from_log(folder / LOG, name, held)
        except FileNotFoundError:  # it was removed between two looks
            return None
        except ValueError as error:  # the run itself will refuse it, too
            return Progress(name, "failed", error=str(error))
        except (AttributeError, KeyError, TypeError) as error:
            return Progress(name, "failed", error=f"{folder} is damaged: its events are not those of a run ({error!r}).")
        if run.state == "done":
            self.ended[folder] = run
        return run


def planned(folder: Path) -> tuple[int, int] | None:
    """How many cells a study's plan has, at least and at most; None if the folder has none, or one of another version."""
    from zolab.studies.cost import cells
    from zolab.studies.plan import check_plan

    path = folder / PLAN
    try:
        return cells(check_plan(unseal(read_json(path), str(path))))
    except (OSError, ValueError):
        return None


def table(overview: Overview) -> Group:
    """What there is to see, for a terminal or a notebook."""
    counts = {state: len(overview.of(state)) for state in ("done", "running", "stopped", "failed")}
    ends = dict.fromkeys(overview.planned or (len(overview.runs),))
    head = f"{counts['done']} of {' to '.join(map(str, ends))} runs done, "
    head += ", ".join(f"{count} {state}" for state, count in counts.items() if state != "done")
    if counts["running"]:
        head += f"; {overview.forwards_a_second:.1f} forward passes a second, {_time(overview.left)} left"
    parts = [head, ProgressBar(max(*ends, 1), counts["done"], width=60)]
    if going := [*overview.of("running"), *overview.of("stopped")]:
        numbers = ("step", "train loss", "dev loss", "passes / s", "left")
        rows = Table("run", "state", *(Column(name, justify="right") for name in numbers), box=None)
        for run in going[:ROWS]:
            speed = f"{run.forwards / run.seconds:.1f}" if run.forwards and run.seconds else "–"
            left = _time(run.left if run.state == "running" else None)
            rows.add_row(run.name, run.state, f"{run.step}/{run.steps or '?'}", _loss(run.train), _loss(run.dev), speed, left)
        parts += ["", rows, *_more(going)]
    if failed := overview.of("failed"):
        parts += ["", *(f"failed: {run.name}: {run.error}" for run in failed[:ROWS]), *_more(failed)]
    return Group(*parts)


def watch(folder: str | os.PathLike, every: float = 2.0, once: bool = False) -> None:
    """Show how the runs of a folder get on, until all are done or it is interrupted; in a terminal or in a notebook.

    Args:
        folder: of a study, of several runs, or of one.
        every: seconds between looks.
        once: look once.

    Raises:
        OSError: there is no such folder.
        ValueError: it has neither runs nor a plan, or `every` is not positive.
    """
    if not 0 < every < float("inf"):
        raise ValueError(f"every must be a positive number of seconds, got {every}.")
    watched = Watch(folder)
    overview = watched.look()
    with Live(table(overview), auto_refresh=False, transient=True) as live:
        try:
            while not once and not _over(overview):
                time.sleep(every)
                overview = watched.look()
                live.update(table(overview), refresh=True)
        finally:  # printed, so that a notebook's file has it, too
            live.console.print(table(overview))


def _over(overview: Overview) -> bool:
    return not overview.going and len(overview.runs) == len(overview.of("done")) >= (overview.planned or (1,))[0]


def _from_log(path: Path, name: str, held: set[int]) -> Progress:
    first, last = _ends(path)
    known: dict[str, dict[str, Any]] = {}
    for event in (*first, *last):
        kind = event.get("event", "")
        known[f"{kind} {event.get('split')}" if kind == "evaluation" else kind] = event
    step = known["step"]["step"] + 1 if "step" in known else 0
    seconds, steps = known.get("time", {}).get("seconds", 0.0), known.get("start", {}).get("config", {}).get("steps", 0)
    passes = [event for event in last if event.get("event") == "evaluation" and event.get("step") and event.get("forwards")]
    a_step = passes[-1]["forwards"] / passes[-1]["step"] if passes else 0.0
    stat, patience = path.stat(), max(QUIET, 20 * seconds / step if step else 0.0)
    runs = stat.st_ino in held or time.time() - stat.st_mtime < patience
    ended = "end" in known or (path.parent / "record.json").exists()
    state = "done" if ended else "running" if runs else "stopped"
    train, dev = known.get("step", {}).get("loss"), known.get("evaluation dev", {}).get("loss")
    return Progress(name, state, step, steps, seconds, a_step * step, train, dev)


def _from_outcome(path: Path, name: str) -> Progress:
    cell = unseal(read_json(path), str(path))
    known = {"seconds": cell.get("seconds", 0.0), "forwards": cell.get("forwards", 0.0), "error": cell.get("diverged", "")}
    return Progress(name, "done", dev=cell["curve"][-1][1] if cell.get("curve") else None, **known)


def _held_files() -> set[int]:
    """Numbers of the files that processes of this machine hold, as a run does its log; none where the system does not tell."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return set()
    return {int(words[5].rpartition(":")[2]) for line in lines if (words := line.split())[1] == "FLOCK"}


def _held(path: Path, held: set[int]) -> bool:
    try:
        return path.stat().st_ino in held
    except FileNotFoundError:
        return False


def _ends(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events in the first and in the last part of a log; a line that is being written is left out."""
    with open(path, "rb") as file:
        first = file.read(END)
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - END, 0))
        last = file.read(END) if size > END else first
    heads, tails = first.split(b"\n")[:-1], last.split(b"\n")[(1 if size > END else 0) : -1]
    return [_event(line, path) for line in heads[:8]], [_event(line, path) for line in tails]


def _event(line: bytes, path: Path) -> dict[str, Any]:
    try:
        event = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if not isinstance(event, dict):
        raise ValueError(f"{path} is damaged: a line is no event.")
    return event


def _subfolders(folder: str | os.PathLike) -> list[str]:
    return sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def _more(runs: list[Progress]) -> list[str]:
    return [f"… and {len(runs) - ROWS} more"] if len(runs) > ROWS else []


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min" if minutes else "under a minute"
