"""Directories of a run that nobody else can look into or exchange: for its keys, and for what Dask
keeps on a disk.

``python -m roman_dask_l2.engine.private FOLDER PID`` makes one of the second kind for a job script.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dask

from ..errors import InputError
from ..system.processes import is_alive, is_orphan, own
from ..system.stopping import unfinished

log = logging.getLogger(__name__)

SCRATCH = ".roman-dask-l2-scratch-"
"""What the names of directories begin with that Dask uses."""

STALE = timedelta(days=30)
"""Age at which a directory is removed of whose run it cannot be told that it is over: it was on
another machine, in another container, or before this machine was started anew."""


@contextlib.contextmanager
def private_folder(parent: Path, prefix: str, what: str) -> Iterator[Path]:
    """A directory of mode 700, for the block.

    Parameters
    ----------
    parent : Path
        Where it is made. What killed runs have left there goes first.
    prefix : str
        What its name begins with.
    what : str
        What is kept there, for errors.

    Raises
    ------
    InputError
        If it cannot be made there, or others could exchange it.
    """
    folder = None
    with contextlib.ExitStack() as stack:
        try:
            with named(parent, what):
                check_place(parent, what)
                remove_orphans(parent, prefix)
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                # Also where a thread that does not end has the process ended by force.
                stack.enter_context(unfinished(folder))
            yield folder
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def private_scratch() -> Iterator[None]:
    """Dask keeps what it keeps on a disk where nobody else can reach it, for the block.

    By default that is ``$TMPDIR/dask-scratch-space``, whoever has made it: who did could have the
    run truncate files, and load what they have put there.
    """
    given = dask.config.get("temporary-directory", None)
    parent = Path(given or tempfile.gettempdir()).expanduser().absolute()
    with private_folder(parent, SCRATCH, "Dask's temporary files") as folder:
        own(folder)
        with dask.config.set({"temporary-directory": str(folder)}):
            yield


@contextlib.contextmanager
def named(parent: Path, what: str) -> Iterator[None]:
    """Have errors say what could not be written where."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{parent}: {what} cannot be written there ({error.strerror})") from error


def remove_orphans(parent: Path, prefix: str) -> None:
    """Remove directories of runs that were killed on this machine, and old ones."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.getuid():
                continue
            old = found.st_mtime < time.time() - STALE.total_seconds()
            if is_orphan(folder) or (old and not is_alive(folder)):
                shutil.rmtree(folder)
                log.info("removed %s, left by a process that was killed", folder)


def check_place(parent: Path, what: str) -> None:
    """Nobody but its owner may exchange a directory there for another one.

    Raises
    ------
    InputError
    OSError
    """
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise InputError(
            f"{parent}: every user could exchange {what} there, expected a directory "
            "that others may not write to, or that has the sticky bit"
        )


def main(arguments: list[str]) -> int:
    """Make a directory for Dask's files in the directory `arguments[0]`, of use as long as there is
    the process `arguments[1]`, and print its name."""
    parent = Path(arguments[0]).absolute()
    what = "Dask's temporary files"
    try:
        with named(parent, what):
            parent.mkdir(parents=True, exist_ok=True)
            check_place(parent, what)
            remove_orphans(parent, SCRATCH)
            folder = tempfile.mkdtemp(prefix=SCRATCH, dir=parent)
            own(Path(folder), int(arguments[1]))
    except InputError as error:
        sys.stderr.write(f"roman-dask-l2: error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
