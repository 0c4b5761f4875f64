"""How a graph runs: names of schedulers -> Dask settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import dask

from .errors import InputError

SCHEDULERS = ("local", "synchronous")
"""``local``: threads of this process; ``synchronous``: one task after the other."""


def cpu_count() -> int:
    """Processors that this process may use (a SLURM job's share, not the node's)."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def running(scheduler: str = "local", threads: int | None = None) -> Iterator[None]:
    """Run Dask computations inside the block as asked.

    Parameters
    ----------
    scheduler : str
        One of `SCHEDULERS`.
    threads : int, optional
        Worker threads of ``local``; default: the processors of this process.

    Raises
    ------
    InputError
        Unknown scheduler, or less than one thread.
    """
    if scheduler not in SCHEDULERS:
        raise InputError(f"--scheduler {scheduler}: expected one of {', '.join(SCHEDULERS)}")
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: expected at least 1")
    if scheduler == "synchronous":
        with dask.config.set(scheduler="synchronous"):
            yield
        return
    with dask.config.set(scheduler="threads", num_workers=threads or cpu_count()):
        yield
