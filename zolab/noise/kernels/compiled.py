"""How kernels are compiled: without the GIL, and kept on disk for every later process."""

import hashlib
import logging
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.serialize import dumps


@lru_cache(maxsize=1)
def _sources() -> bytes:
    """A digest of the source of all CPU kernels."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("cuda"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


@lru_cache(maxsize=1)
def _tell_once(reason: str) -> None:
    logging.getLogger("zolab").warning(
        "compiled kernels cannot be kept (%s), so each process compiles them again; set NUMBA_CACHE_DIR to a folder", reason
    )


class _CheckedFiles(IndexDataCacheFile):
    """numba's files of one function, read as if they were absent when they are damaged.

    Machine code with a flipped bit would run, and so would the code for other types under a damaged index. So each file of
    code tells for which types it is, and its digest.
    """

    def save(self, key: Any, data: Any) -> None:
        code = dumps(data)
        super().save(key, (key, hashlib.sha256(code).digest(), code))

    def load(self, key: Any) -> Any:
        try:
            saved_for, digest, code = super().load(key) or (None, b"", b"")
        except Exception:  # damaged bytes may raise anything; the function is compiled again, and its file replaced
            return None
        return pickle.loads(code) if saved_for == key and digest == hashlib.sha256(code).digest() else None

    def _load_index(self) -> dict[Any, str]:
        try:
            return super()._load_index()
        except Exception:  # as above
            return {}


class _SharedCache(FunctionCache):
    """numba's cache on disk, safe for several processes.

    A function has one index file, and a numbered file of machine code for each choice of types. Two processes that compile it
    for different types at the same moment would both take the same number, and every later process would run the one's code
    on the other's arrays. So one process at a time may look into the cache of a folder.

    And numba compiles a function anew when its own file has changed; here, when any file beside it has, since kernels are
    built from the functions of several.

    A cache saves time and decides nothing: where the disk is full or the folder cannot be written, the code just made is used.
    """

    def __init__(self, function: Callable):
        super().__init__(function)
        self._cache_file = _CheckedFiles(self.cache_path, self._impl.filename_base, _sources())

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            with self._alone():
                return super()._load_overload(sig, target_context)
        except OSError as error:
            _tell_once(str(error))
            return None

    def _save_overload(self, sig: Any, data: Any) -> None:
        try:
            with self._alone():
                super()._save_overload(sig, data)
        except OSError as error:
            _tell_once(str(error))

    def _alone(self) -> FileLock:
        self._impl.locator.ensure_cache_path()
        return FileLock(Path(self.cache_path) / "zolab.lock", is_singleton=True)  # a kernel may load another


def kernel(function: Callable) -> Callable:
    """Compile a function at its first call with new types, or load what an earlier process compiled."""
    compiled = njit(nogil=True)(function)
    try:
        compiled._cache = _SharedCache(function)  # as njit(cache=True) does with numba's own
    except RuntimeError:  # numba finds no folder to write to: neither this package's, nor one at home
        _tell_once("no folder for them can be written")
    return compiled
