"""Kernels precompiled in a second process while the first one works on the first tiles.

numba compiles one function at a time in a process, so the first run on a machine would leave all
processors but one idle for as long as it compiles. Where nothing is compiled yet, a helper runs the
recipe's kernels on a few blank pixels from the last to the first; the run itself needs them from
the first to the last. What one of them has compiled the other finds in the cache on disk.

The helper ends by itself when the run does: it looks at its standard input between two kernels,
never in one, so that the cache is whole.
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
    """While this lasts, a second process compiles what the cache does not have.

    Nothing depends on it: what it cannot compile the run compiles itself.

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
    """The helper at work; None if there cannot be one."""
    program = [sys.executable, "-c", "from roman_dask_l2.products.precompile import main; main()"]
    # A session of its own: Ctrl-C is for the run, and ends the helper through its input.
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
    """The helper: its standard input is a pickled configuration, and ends when the run does."""
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
            return  # one helper is enough, however many runs there are
        to_float16(np.zeros(1, np.float32))
        for _ in rehearse(job.steps, job.inputs):
            if select.select([sys.stdin.buffer], [], [], 0)[0]:
                return
