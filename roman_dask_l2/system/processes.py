"""Which processes of this machine live: what others have left behind may be removed. And what this
one need not keep."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from functools import lru_cache
from pathlib import Path

import psutil

from .files import NOT_THROUGH, write_new


@lru_cache(maxsize=1)
def space() -> str:
    """Boot and process namespace: only in the same one does a process number mean the same. Empty
    where that cannot be told."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def born(pid: int) -> float | None:
    """When a process of this machine started, s since 1970; None if there is none, 0 if that cannot
    be told."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return 0.0


def age() -> float:
    """Seconds since this process was started."""
    started = psutil.Process().create_time()
    if hasattr(time, "CLOCK_BOOTTIME"):
        # Linux counts from when the machine was started, and tells that in whole seconds only.
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (started - psutil.boot_time())
    return time.time() - started


def process_lives(pid: int, since: float) -> bool:
    """Whether this machine has such a process, and had it at the time `since` (s since 1970)."""
    began = born(pid)
    return began is not None and began <= since + 1


OWNER = "owner"
"""File in a directory that belongs to a process."""


def own(folder: Path, pid: int | None = None) -> None:
    """Say that a directory, not what a link there leads to, is of no use without this process, or
    another one of this machine."""
    pid = os.getpid() if pid is None else pid
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NOT_THROUGH)
    try:
        write_new(OWNER, f"{space()}\n{pid}\n{born(pid)}\n", place)
    finally:
        os.close(place)


def is_orphan(folder: Path) -> bool:
    """Whether a directory is this user's, and the process that owns it ran here and is gone."""
    return _owner_lives(folder) is False


def is_alive(folder: Path) -> bool:
    """Whether a directory is this user's, and the process that owns it runs here."""
    return _owner_lives(folder) is True


def _owner_lives(folder: Path) -> bool | None:
    """None where that cannot be told."""
    try:
        place, pid, began = _owner(folder).splitlines()
        alive = born(int(pid))
        gone = alive is None or (alive > 0 and abs(alive - float(began)) > 1)
    except (OSError, ValueError, OverflowError):
        return None
    return not gone if place == space() != "" else None


def _owner(folder: Path) -> str:
    """What `own` wrote; nothing for what others have put there."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NOT_THROUGH)
    try:
        if os.fstat(place).st_uid != os.geteuid():
            return ""
        file = os.open(OWNER, os.O_RDONLY | os.O_NONBLOCK | NOT_THROUGH, dir_fd=place)
        try:
            return os.read(file, 1024).decode()
        finally:
            os.close(file)
    finally:
        os.close(place)


KEPT = {
    "MALLOC_MMAP_THRESHOLD_": 1 << 25,
    "MALLOC_TRIM_THRESHOLD_": 1 << 28,
    "MALLOC_ARENA_MAX": 1,
}
"""How glibc keeps freed memory, by the names of its environment: blocks up to the first (bytes, the
largest that it accepts) come from the heap, which keeps up to the second at its end, and is one for
all threads: those of threads are pieces of 64 MB that are given back when they are empty."""
_PARAMETERS = {
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_ARENA_MAX": -8,
}
"""Their numbers in malloc.h."""


def keep_freed() -> None:
    """Let this process use freed memory again, which glibc else returns to the system with every
    large array: the next one would be made of new pages, each of which the system clears. Nothing
    of what the environment says otherwise, or where it is another library."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for name, value in KEPT.items():
            if name not in os.environ:
                library.mallopt(_PARAMETERS[name], value)


ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What tells libraries how many threads to have."""


def one_thread_each() -> None:
    """Libraries that this process has not loaded yet do without threads of their own, where the
    environment does not say otherwise: Dask has them all, and those of a BLAS only wait, busily."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")


def give_back() -> None:
    """Return freed memory to the system, which glibc keeps; nothing where it is another library."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cpu_count() -> int:
    """Processors that this process may use (a SLURM job's share, not the node's)."""
    return len(os.sched_getaffinity(0))
