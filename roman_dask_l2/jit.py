"""All numba switches in one place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
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


def kernel(func: F) -> F:
    """Compile a kernel: releases the GIL for Dask's threads, never starts threads of its own
    (``parallel=True`` aborts under Dask's), keeps IEEE order of operations so that results do not
    depend on the machine, and is cached on disk."""
    compiled: Any = numba.njit(nogil=True, cache=True, fastmath=False, error_model="numpy")(func)
    return compiled
