"""How kernels are compiled: without the GIL, and kept on disk for every later process."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba import njit
from numba.core.caching import FunctionCache


@lru_cache(maxsize=1)
def _sources() -> bytes:
    """A digest of the source of all CPU kernels."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("cuda"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


class _SharedCache(FunctionCache):
    """numba's cache on disk, safe for several processes.

    A function has one index file, and a numbered file of machine code for each choice of types. Two processes that compile it
    for different types at the same moment would both take the same number, and every later process would run the one's code
    on the other's arrays. So one process at a time may look into the cache of a folder.

    And numba compiles a function anew when its own file has changed; here, when any file beside it has, since kernels are
    built from the functions of several.
    """

    def __init__(self, function: Callable):
        super().__init__(function)
        self._cache_file._source_stamp = _sources()

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._alone():
            return super()._load_overload(sig, target_context)

    def _save_overload(self, sig: Any, data: Any) -> None:
        with self._alone():
            super()._save_overload(sig, data)

    def _alone(self) -> FileLock:
        self._impl.locator.ensure_cache_path()
        return FileLock(Path(self.cache_path) / "zolab.lock", is_singleton=True)  # a kernel may load another


def kernel(function: Callable) -> Callable:
    """Compile a function at its first call with new types, or load what an earlier process compiled."""
    compiled = njit(nogil=True)(function)
    compiled._cache = _SharedCache(function)  # as njit(cache=True) does with numba's own
    return compiled
