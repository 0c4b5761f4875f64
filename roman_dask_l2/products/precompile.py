"""Compiling kernels in a second process while the first one computes the first tiles.

numba compiles one function at a time in a process, so in the first run on a machine all processors
but one would be idle during compilation. If nothing is compiled yet, a helper process runs the
recipe's kernels on a few blank pixels, from the last kernel to the first; the run itself needs them
from the first to the last. Each finds in the cache on disk what the other has compiled.

The helper exits when the run ends: between kernels it checks whether its standard input was closed.
It never stops within a kernel, so that the cache stays complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import Job

log = logging.getLogger(__name__)


@contextlib.contextmanager
def precompiling(job: Job) -> Iterator[None]:
    """Within this context a second process compiles kernels that the cache does not have.

    No result depends on it: kernels that it cannot compile are compiled by the run itself.

    Parameters
    ----------
    job : Job
    """
    from ..core.jit import cold_cache

    if cold_cache() is None:
        yield
        return
    helper = _start(job)
    try:
        yield
    finally:
        if helper is not None:
            assert helper.stdin is not None
            with contextlib.suppress(OSError):
                helper.stdin.close()
            helper.wait()
            log.debug("the process that precompiles ended with status %d", helper.returncode)


def _start(job: Job) -> subprocess.Popen[bytes] | None:
    """The running helper process; None if it could not be started."""
    program = [sys.executable, "-c", "from roman_dask_l2.products.precompile import main; main()"]
    # A session of its own: Ctrl-C goes to the run only, which then closes the helper's input.
    try:
        helper = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        log.debug("no process to precompile: %s", error)
        return None
    assert helper.stdin is not None
    with contextlib.suppress(OSError):
        helper.stdin.write(pickle.dumps(job.config))
        helper.stdin.flush()
    return helper


def main() -> None:
    """The helper: its standard input is a pickled configuration, closed when the run ends."""
    import numpy as np

    from ..core.float16 import to_float16
    from ..core.jit import cold_cache
    from ..engine.kernels import rehearse
    from .job import prepare

    job = prepare(pickle.load(sys.stdin.buffer))
    folder = cold_cache()
    if folder is None:
        return
    with open(folder / "precompile.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another run's helper is at work, one is enough
        to_float16(np.zeros(1, np.float32))
        for _ in rehearse(job.steps, job.inputs):
            if select.select([sys.stdin.buffer], [], [], 0)[0]:
                return
