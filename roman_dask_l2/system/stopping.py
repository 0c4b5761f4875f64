"""SIGTERM and Ctrl-C end a run within seconds, also where a thread is stuck in foreign code.

The first signal raises KeyboardInterrupt in the main thread, which cleans up. Where the interpreter
had to drop that exception, as within a destructor, it is raised again. Where cleaning up does not
come to an end, because a thread never returns, the process is ended by `_force`; and where not
even the interpreter gets to work, because foreign code does not let go of its lock, by a small
shell that waits beside it. A second signal, a second later or more, ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GRACE = 7.0
"""Seconds from the first signal that a run has to clean up."""
_REMOVING = 1.0
"""Seconds that removing unfinished files may take then."""
_APART = 1.0
"""Seconds between two signals that are two: some programs send each one twice."""
_LOOK = 0.05
"""Seconds between looks at whether the interpreter dropped the exception."""
_PROGRAM = "roman-dask-l2"

# Its input gets a byte with a signal, written by the interpreter's handler in C, and ends with the
# process. It passes the word on, waits for that end, and has its own way if that does not come.
_SHELL = r"""
while :; do
    case "$(head -c 1 | od -An -tu1)" in
        "") exit 0 ;;
        *" 2" | *" 15") break ;;
    esac
done
echo
timeout 9 cat > /dev/null && exit 0
echo "roman-dask-l2: error: interrupted; foreign code did not let go, the process was killed; \
unfinished files may be left, the next run removes them" >&2
kill -9 "$1"
"""

_unfinished: set[Path] = set()
"""Files and directories that are of no use once this process is gone."""
_incomplete: set[Path] = set()
"""Directories of the user's that are being filled."""
_elsewhere: list[Callable[[], str]] = []
"""What is said of files of other processes."""


@contextlib.contextmanager
def unfinished(*paths: Path) -> Iterator[None]:
    """These files or directories are removed if the process is ended by force in the block."""
    _unfinished.update(paths)
    try:
        yield
    finally:
        _unfinished.difference_update(paths)


@contextlib.contextmanager
def incomplete(path: Path) -> Iterator[None]:
    """What is told of, and stays, where the block does not come to its end: a directory of the
    user's that is being filled."""
    _incomplete.add(path)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path} is incomplete") from None
    finally:
        _incomplete.discard(path)


@contextlib.contextmanager
def elsewhere(what: Callable[[], str]) -> Iterator[None]:
    """In the block other processes have unfinished files, too: what to say of those, if the process
    is ended by force; an empty text where there are none."""
    _elsewhere.append(what)
    try:
        yield
    finally:
        _elsewhere.remove(what)


_told = threading.Event()
"""A signal has come."""


def raise_if_told() -> None:
    """Go no further where a signal has come.

    Raises
    ------
    KeyboardInterrupt
    """
    if _told.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """A signal that comes in the block ends it with KeyboardInterrupt, also where a library caught
    that, or the interpreter put another exception in its place, as ``from a import b`` may do."""
    try:
        yield
    except Exception:
        raise_if_told()
        raise
    raise_if_told()


class Stopper:
    """What ends this process when it is told to; made once, in the main thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._shell = _start_shell(read)
        if self._shell is not None:
            os.close(read)
            assert self._shell.stdout is not None
            read = self._shell.stdout.fileno()
        self._again = threading.Event()
        self._first = 0.0
        self._dropped = self._once_more = False
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._interrupt)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(read,), name="stopper", daemon=True).start()

    def _interrupt(self, number: int, frame: Any) -> None:
        """The handler: runs in the main thread, as soon as that is in Python code."""
        _told.set()
        if self._once_more:  # not a signal, but `_wait`
            self._once_more = False
            if self._dropped:
                self._dropped = False
                raise KeyboardInterrupt
            return
        if not self._first:
            self._first = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._first > _APART:
            self._again.set()

    def _unraisable(self, problem: Any) -> None:
        """What the interpreter calls for an exception that it cannot hand on: one within a
        destructor, a callback of a weak reference (each import has them) or of foreign code."""
        if issubclass(problem.exc_type, KeyboardInterrupt):
            self._dropped = True
        else:
            self._hook(problem)

    def _wait(self, read: int) -> None:
        """The thread: a signal has come when there is a byte."""
        with contextlib.suppress(OSError):
            if not os.read(read, 1):  # the shell is gone
                _told.wait()
        end = time.monotonic() + GRACE
        while time.monotonic() < end and not self._again.wait(_LOOK):
            if self._dropped:
                self._once_more = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        _force()

    def end(self, status: int) -> None:
        """The run has said its last word: where it was interrupted, wait for no thread."""
        if self._first:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            _end_children()
            os._exit(status)


def _start_shell(read: int) -> subprocess.Popen[bytes] | None:
    """The shell that waits beside this process; None if there cannot be one."""
    if not all(shutil.which(name) for name in ("sh", "head", "od", "timeout", "cat")):
        return None
    try:
        return subprocess.Popen(
            ["sh", "-c", _SHELL, "sh", str(os.getpid())],
            stdin=read,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is not for it
        )
    except OSError:
        return None


def _force() -> None:
    """Remove what is unfinished, say what is left, and end the process with status 1."""
    _end_children()
    left = sorted(_unfinished)
    said: list[str] = []
    remover = threading.Thread(target=_remove, args=(left, said), daemon=True)
    remover.start()
    remover.join(_REMOVING)
    still = [str(path) for path in [*left, *sorted(_incomplete)] if path.exists()]
    if still:
        said.append(f"it leaves {', '.join(still)}")
    elif remover.is_alive():
        said.append("unfinished files may be left, the next run removes them")
    what = "; ".join(filter(None, said)) or "no unfinished file is left behind"
    line = f"{_PROGRAM}: error: interrupted; {what} (a thread did not end, the process was ended)\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode(errors="replace"))  # sys.stderr may be locked
    os._exit(1)


def _remove(paths: list[Path], said: list[str]) -> None:
    """Remove these; what has to be said of those of other processes is added to `said`."""
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
    for what in _elsewhere:
        with contextlib.suppress(Exception):
            said.append(what())


def _end_children() -> None:
    """Processes that this one has started, such as the workers of a local cluster."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
