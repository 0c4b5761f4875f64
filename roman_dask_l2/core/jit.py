"""All use of numba in one place: how kernels are compiled, and where they are cached.

The cache overrides private names of numba, which may change with any release: written for 0.68
(`IndexDataCacheFile` and `FunctionCache` of `numba.core.caching`, a dispatcher's ``_cache``). They
stand here and not in `system.workarounds` because every kernel needs them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import pickle
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

from ..system.files import is_ours, is_private

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def _cache_directory() -> str | None:
    """Where compiled kernels are kept: beside the sources if that is writable (numba's own
    choice), else a per-user directory, so that a read-only installation is compiled only once.

    They are code that is run: a directory that others may write to is not used. Where there is no
    other, kernels last as long as the process.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return None
    here = Path(__file__).parent
    if os.access(here, os.W_OK):
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    shared = Path(tempfile.gettempdir()) / f"user-{os.getuid()}"
    for folder in (base, shared):
        ours = [folder / "roman_dask_l2", folder / "roman_dask_l2" / "numba"]
        try:
            folder.mkdir(0o700, parents=folder is base, exist_ok=True)
            for part in ours:
                part.mkdir(0o700, exist_ok=True)
                if folder is base and is_ours(part):
                    part.chmod(0o700)  # older versions made it with the umask
        except OSError:
            continue
        parts = ours if folder is base else [shared, *ours]
        if all(map(is_private, parts)) and os.access(ours[-1], os.W_OK):
            return str(ours[-1])
    passing = tempfile.mkdtemp(prefix="roman_dask_l2-")
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return passing


_directory = _cache_directory()
if _directory:
    os.environ["NUMBA_CACHE_DIR"] = _directory


class _CheckedFile(IndexDataCacheFile):
    """Index and code of a function's variants, each with a check sum.

    A file damaged by a crash, a full disk or another program counts as missing: the function is
    compiled again and the file replaced.
    """

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + _digest(data)  # unpickling stops before the check sum

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                version = pickle.load(file)
                if version == self._version and not _intact(file.read()):
                    return {}
            found: dict[Any, str] = super()._load_index()
        except Exception:  # unpickling garbage may end in any of them
            return {}
        return found

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            data = file.read()
        if not _intact(data):
            raise OSError(f"{self._data_path(name)}: damaged")
        return super()._load_data(name)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _intact(data: bytes) -> bool:
    """Whether the contents of a file end with their check sum."""
    return _digest(data[:-16]) == data[-16:]


class _SharedCache(FunctionCache):
    """numba's cache on disk, made safe for many processes that start at once.

    numba first writes the index of a function's variants, then the code of the new one. In between,
    another process may find old code under the new entry, or write its own variant to the same
    file.
    """

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        self._func = py_func

    @cached_property
    def file(self) -> _CheckedFile:
        """The files of this function. Made at the first use, when all that it calls is defined."""
        stamp = self._impl.locator.get_source_stamp()
        return _CheckedFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=(stamp, built_from(self._func)),
        )

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            self._cache_file = self.file
            with self._locked(fcntl.LOCK_SH):
                return super()._load_overload(sig, target_context)
        except Exception as error:  # whatever is wrong, the function can be compiled again
            log.debug("%s: %s: compiled again", self._impl.filename_base, error)
            return None

    def _save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._cache_file = self.file
            with self._locked(fcntl.LOCK_EX):
                super()._save_overload(sig, data)
        except OSError as error:  # such as a full disk: the run does not need the cache
            _warn_once(
                f"{self.cache_path}: compiled kernels cannot be stored there ({error.strerror})"
            )

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # read-only, or no file locks: as numba does it
                self._impl.locator.ensure_cache_path()
                path = os.path.join(self.cache_path, f"{self._impl.filename_base}.lock")
                file = stack.enter_context(open(path, "ab"))
                fcntl.flock(file, kind)
            yield


def built_from(func: Callable[..., Any]) -> str:
    """Digest of all that a kernel is compiled from: its code, that of the kernels that it calls,
    and the constants that they use, from whatever file.

    numba itself looks at the one file in which a kernel stands, so that a change of another one
    would leave old machine code in use.
    """
    digest = hashlib.blake2b(digest_size=16)
    seen: set[int] = set()

    def add(value: Any) -> None:
        if isinstance(value, types.CodeType):
            digest.update(value.co_code)
            for part in (*value.co_consts, *value.co_names, *value.co_varnames):
                add(part)
        elif isinstance(value, np.ndarray | np.generic):
            digest.update(repr((value.dtype, value.shape)).encode() + value.tobytes())
        elif isinstance(value, tuple | list):
            for part in value:
                add(part)
        elif isinstance(value, type) and hasattr(value, "_fields"):  # a NamedTuple
            add(value._fields)
        elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
            digest.update(repr(value).encode())
        else:
            follow(getattr(value, "py_func", None))

    def follow(function: Any) -> None:
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            return
        seen.add(id(function))
        add(function.__code__)
        for name in function.__code__.co_names:
            if name in function.__globals__:
                add(function.__globals__[name])
        for cell in function.__closure__ or ():
            add(cell.cell_contents)

    follow(func)
    return digest.hexdigest()


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


_kernels: list[Any] = []
"""Every kernel of the modules imported so far."""


def cold_cache() -> Path | None:
    """The directory of compiled kernels if it is writable and lacks most of the imported kernels,
    else None."""
    caches = [k._cache for k in _kernels]
    if not caches:
        return None
    folder = Path(caches[0].cache_path)
    # An index that an older version of the source has left counts as empty.
    known = sum(bool(cache.file._load_index()) for cache in caches)
    if 2 * known > len(caches):
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def kernel(func: F) -> F:
    """Compile a loop over pixels with numba.

    The compiled function releases the GIL for Dask's threads and starts no threads of its own
    (``parallel=True`` aborts under Dask's). It keeps the IEEE order of operations, so that results
    do not depend on the machine, and is cached on disk.

    Parameters
    ----------
    func : callable
        A function of NumPy arrays and scalars, of any shapes and types, in the part of Python that
        numba knows.

    Returns
    -------
    callable
        The same function, compiled for the types of its arguments when it is first called.

    Raises
    ------
    numba.core.errors.NumbaError
        At the first call, if numba cannot compile the function.
    """
    compiled: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")(func)
    compiled._cache = _SharedCache(func)  # what cache=True does, with its own class
    _kernels.append(compiled)
    return compiled
