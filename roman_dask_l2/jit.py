"""All numba switches in one place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def _cache_directory() -> str | None:
    """Where compiled kernels are kept: beside the sources if that is writable (numba's own
    choice), else a per-user directory, so that a read-only installation is compiled only once."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return None
    here = Path(__file__).parent
    if os.access(here, os.W_OK):
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base, Path(tempfile.gettempdir()) / f"user-{os.getuid()}"):
        candidate = folder / "roman_dask_l2" / "numba"
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate, os.W_OK):
            return str(candidate)
    return None


_directory = _cache_directory()
if _directory:
    os.environ["NUMBA_CACHE_DIR"] = _directory

import numba  # noqa: E402  (the cache directory must be set before numba reads it)
from numba.core.caching import FunctionCache  # noqa: E402


class _SharedCache(FunctionCache):
    """numba's cache on disk, for many processes that start at once.

    numba writes the index of a function's variants first and the code of the new one after it. In
    between, another process may find old code under the new entry, or give its own variant the
    same file.
    """

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._locked(fcntl.LOCK_SH):
            return super()._load_overload(sig, target_context)

    def _save_overload(self, sig: Any, data: Any) -> None:
        with self._locked(fcntl.LOCK_EX):
            super()._save_overload(sig, data)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # read-only, or without locks: as numba has it
                self._impl.locator.ensure_cache_path()
                path = os.path.join(self.cache_path, f"{self._impl.filename_base}.lock")
                file = stack.enter_context(open(path, "ab"))
                fcntl.flock(file, kind)
            yield


_kernels: list[Any] = []
"""Every kernel of the modules that are imported."""


def cold_cache() -> Path | None:
    """Where compiled kernels are kept, if that can be written to and has nothing yet for most of
    the kernels that are imported; else None."""
    caches = [k._cache for k in _kernels]
    if not caches:
        return None
    folder = Path(caches[0].cache_path)
    # An index that an older version of the source has left counts as empty.
    known = sum(bool(cache._cache_file._load_index()) for cache in caches)
    if 2 * known > len(caches):
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def kernel(func: F) -> F:
    """Compile a kernel: releases the GIL for Dask's threads, never starts threads of its own
    (``parallel=True`` aborts under Dask's), keeps IEEE order of operations so that results do not
    depend on the machine, and is cached on disk."""
    compiled: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")(func)
    compiled._cache = _SharedCache(func)  # what cache=True does, with its own class
    _kernels.append(compiled)
    return compiled
