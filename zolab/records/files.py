"""Files that appear whole or not at all, and are read with care: by name, size and kind before content."""

import json
import math
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

LARGEST = 2**30  # bytes of a log or record that is read
NAMES = ".{name}.{pid}.tmp"  # of what is being written


def ready(path: str | os.PathLike) -> None:
    """Make the folder of a file that long work will write. Raises OSError now if that cannot be, not after the work."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError("no permission")
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Inside this block a file or folder is written: what prevents it becomes one OSError with one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"could not write {path} ({error}); free some space or choose another folder.") from error


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path to write to; on success it takes the place of `path`, on failure `path` stays as it was.

    Raises:
        OSError: the file could not be written (full disk, no permission); the previous file is intact.
    """
    path = Path(path)
    temporary = temporary_for(path)
    try:
        with writing(path):
            yield temporary
            _settle(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file's content in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary folder to write to; on success it becomes `path`, on failure nothing is left of it.

    Raises:
        OSError: `path` is there and holds something, or a file could not be written.
    """
    path = Path(path)
    check_new(path)
    temporary = temporary_for(path)
    try:
        with writing(path):
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
            temporary.mkdir(parents=True)
            yield temporary
            for file in filter(Path.is_file, temporary.rglob("*")):
                _settle(file)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(path: str | os.PathLike) -> None:
    """Raise OSError unless a folder can be made at `path`; an empty one may be there."""
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return ready(path / "any")
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} is there already; choose another folder, or remove it first.")
    ready(path)


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written of a file, or of every file. For the only writer in the folder."""
    for left in folder.glob(NAMES.format(name=name, pid="*")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def read_bytes(path: str | os.PathLike, limit: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: there is no such file, it cannot be read, or it is a folder, pipe or device.
        ValueError: it is larger than `limit` bytes.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # before `open`, which would name a folder by its number
            raise OSError(f"{path} is not a file with content of its own; give a regular file.")
        if status.st_size > limit:
            raise ValueError(f"{path} has {status.st_size:,} bytes, where at most {limit:,} are expected.")
        with open(file, "rb", closefd=False) as opened:
            return opened.read()
    finally:
        os.close(file)


def read_json(path: str | os.PathLike, limit: int = LARGEST) -> Any:
    """The value in a JSON file, read strictly: UTF-8, no NaN, no infinity, no endless nesting.

    Raises:
        OSError, ValueError: as `read_bytes`; or it is no such JSON.
    """
    content = read_bytes(path, limit)
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError as `read_json`, without the file's name."""
    try:
        return json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all. Raises ValueError as `json_for` does."""
    write_atomically(path, json_for(path, content, indent))


def json_for(path: str | os.PathLike, content: Any, indent: int | None = 1) -> bytes:
    """The JSON text of a file. Raises ValueError, naming the place, if a number is not finite or a value is not plain."""
    try:
        return (json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"{path} cannot hold what is not plain: {error}; nothing was written.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot hold {_not_finite(content)}, which is no number; nothing was written.") from error


def temporary_for(path: Path) -> Path:
    """Where this process writes what will take the place of `path`; `sweep` finds it after a kill."""
    return path.with_name(NAMES.format(name=path.name, pid=os.getpid()))


def _settle(file: Path) -> None:
    """On the disk, and readable by whom the umask says: libraries that write weights let in their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
    with open(file, "rb") as written:
        os.fsync(written.fileno())


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}")


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _refuse(word[:20])


def _not_finite(content: Any, place: str = "") -> str | None:
    """Where the first number that is not finite stands, such as `result.loss = nan`."""
    if isinstance(content, float):
        return None if math.isfinite(content) else f"{place} = {content}"
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, (list, tuple)) else ()
    inside = (_not_finite(part, f"{place}.{key}".lstrip(".")) for key, part in parts)
    return next((message for message in inside if message), None)
