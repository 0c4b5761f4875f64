"""One process at a time works on an exposure, on any machine that sees its output directory.

A lock is a file beside the output, ``.NAME.lock``, made with O_EXCL, which every file system
honours, while flock is local to a node on some parallel file systems and missing on others. It
says who holds it; a thread of the holder touches it every `BEAT` seconds. A lock whose holder is
dead may be taken: at once where the holder's process could be seen and is gone (same machine, same
process namespace), elsewhere when it was watched and not touched for `DEAD_AFTER` seconds, or was
not touched for so long that no difference between clocks explains it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..system.files import NEW, NOT_THROUGH, clock_ahead, look_again
from ..system.processes import born, space

BEAT = 15.0
"""Seconds between signs of life."""
DEAD_AFTER = 120.0
"""Seconds without one until a process that cannot be seen from here counts as dead. Network file
systems may show a time that is up to a minute old."""
CLOCKS = 300.0
"""Seconds by which clocks may be apart. Parallel file systems take the time of a sign of life from
the machine that gives it: a lock that looks younger than this and `DEAD_AFTER` together is watched
for `DEAD_AFTER` seconds before it counts as dead."""

AWAY = re.compile(r"(\..+\.lock)\.[0-9a-f]{8}")
"""A lock of a dead holder that is being removed."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    host, space : str
        Name of the machine; its boot and process namespace.
    pid : int
    born : float
        When the process started, s since 1970: process numbers are used again.
    token : str
        Of this attempt, no other has it.
    """

    host: str
    space: str
    pid: int
    born: float
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def lock_path(out: Path) -> Path:
    """The lock of an exposure that writes `out`: beside the file that it may be a link to."""
    real = Path(os.path.realpath(out)) if os.path.islink(out) else out
    return real.with_name(f".{real.name}.lock")


def read_owner(path: Path) -> tuple[Owner | None, float] | None:
    """Who holds a lock, and the time of the last sign of life; None if there is no such lock.

    The owner is None while the file is being written, if it is none of ours, and where a network
    file system cannot read it at the moment.
    """
    try:
        with open(path, "rb", opener=_opener) as file:  # network file systems look again then
            touched = os.fstat(file.fileno()).st_mtime
            text = file.read(4096)
    except FileNotFoundError:
        return None
    except OSError:
        return _unreadable(path)
    return _parsed(text or b""), touched


def _opener(name: str, flags: int) -> int:
    """Not through a symbolic link, and without waiting for the other end of a pipe."""
    return os.open(name, flags | os.O_NONBLOCK | NOT_THROUGH)


def _parsed(text: bytes) -> Owner | None:
    """The owner that a lock names, None if there is no sense in it."""
    try:
        owner = Owner(**json.loads(text))
        texts = (owner.host, owner.space, owner.token)
        numbers = isinstance(owner.pid, int) and isinstance(owner.born, int | float)
    except (ValueError, TypeError, RecursionError):
        return None
    good = numbers and 0 < owner.pid < 1 << 31 and all(isinstance(t, str) for t in texts)
    return owner if good else None


def _unreadable(path: Path) -> tuple[None, float] | None:
    """Held by someone unknown, who counts as alive if not even the time can be told."""
    try:
        return None, path.lstat().st_mtime
    except FileNotFoundError:
        return None
    except OSError:
        return None, time.time()


def holder(path: Path) -> Owner | None:
    """The living holder of a lock; None if it is free or its holder is dead."""
    return look(path)[0]


def look(path: Path) -> tuple[Owner | None, bool]:
    """`holder`, and whether it is stuck: its process can be seen from here and lives, but has given
    no sign of life for `DEAD_AFTER` seconds. Both are decided from one look at the lock."""
    found = read_owner(path)
    if found is None or _dead(path, *found):
        return None, False
    owner, touched = found
    if owner is None:
        return _UNKNOWN, False
    return owner, _is_near(owner) and _silent(path, touched) > DEAD_AFTER


def _is_near(owner: Owner) -> bool:
    """Whether its process could be seen from here."""
    return (owner.host, owner.space) == (platform.node(), space()) and bool(owner.space)


_UNKNOWN = Owner("?", "", 0, 0.0, "")
_ahead: dict[Path, tuple[float, float]] = {}
"""Directory -> until when (of the monotonic clock) it is known how far its clock is ahead, s."""


def _silent(path: Path, touched: float) -> float:
    """Seconds since the last sign of life, by the clock of the file server that noted it: clocks of
    machines may be minutes apart."""
    until, ahead = _ahead.get(path.parent, (0.0, 0.0))
    if until < time.monotonic():
        ahead = clock_ahead(path.parent)
        _ahead[path.parent] = time.monotonic() + DEAD_AFTER / 2, ahead
    return time.time() + ahead - touched


def _dead(path: Path, owner: Owner | None, touched: float) -> bool:
    if owner is not None and _is_near(owner):
        if owner.pid == os.getpid():
            return owner.token not in _held.values()
        began = born(owner.pid)
        return began is None or (began > 0 and abs(began - owner.born) > 1)
    unmoved = _unmoved(path, touched) > DEAD_AFTER
    return unmoved or _silent(path, touched) > DEAD_AFTER + CLOCKS


_seen: dict[Path, tuple[float, float]] = {}
"""Lock -> its last sign of life, and when (of the monotonic clock) that was seen first."""


def _unmoved(path: Path, touched: float) -> float:
    """Seconds that this process has seen a lock without a new sign of life, whatever time that has:
    no clock has a say in this."""
    last, since = _seen.get(path, (None, 0.0))
    if last != touched:
        since = time.monotonic()
        _seen[path] = touched, since
    return time.monotonic() - since


_held: dict[Path, str] = {}
_owed: dict[Path, str] = {}
"""Locks that could not be removed when they were given back."""
_beating = threading.Lock()
_thread: threading.Thread | None = None


def take(path: Path, token: str) -> tuple[bool, Owner | None]:
    """Try to take a lock.

    Parameters
    ----------
    path : Path
    token : str
        Name of the attempt.

    Returns
    -------
    taken : bool
    other : Owner or None
        If it was not taken, who holds it. If it was, the dead process that held it, if any.

    Raises
    ------
    InputError
        If the lock cannot be written: there is no such directory, or it is read-only or full.
    """
    me = Owner(platform.node(), space(), os.getpid(), born(os.getpid()) or 0.0, token)
    dead: Owner | None = None
    unseen = 0
    while True:
        try:
            file = os.open(path, NEW, 0o666)
        except FileExistsError:
            _require_file(path)
            found = read_owner(path)
            if found is None:  # just removed; or the server has it and this machine does not see it
                unseen += 1
                if unseen > _UNSEEN:
                    return False, _UNKNOWN
                look_again(path.parent)
                time.sleep(0.01 * unseen)
                continue
            if not _dead(path, *found):
                return False, found[0] or _UNKNOWN
            dead = found[0] or dead
            try:
                _clear(path)
            except OSError as error:
                raise InputError(
                    f"OUT: {path}, left by a dead process, cannot be removed ({error.strerror})"
                ) from None
            continue
        except FileNotFoundError:
            raise InputError(f"OUT: the directory {path.parent} does not exist") from None
        except OSError as error:
            raise InputError(
                f"OUT: the directory {path.parent} is not writable ({error.strerror})"
            ) from None
        try:
            try:
                os.write(file, json.dumps(asdict(me)).encode())
            finally:
                os.close(file)  # network file systems tell of a full disk here
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise InputError(f"OUT: {path}: cannot be written ({error.strerror})") from None
        with _beating:
            _held[path] = token
        _start_beating()
        return True, dead


_UNSEEN = 20
"""How often a lock may be there for one who makes it, and not for one who reads it."""


def _require_file(path: Path) -> None:
    """A link, pipe or directory in the place of a lock is none that this program has made."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise InputError(f"OUT: the lock {path} is {what}, expected a file of this program")


def _clear(path: Path) -> None:
    """Remove the lock of a dead holder, unless another process has just taken it.

    Where `_alone` is of no use and the file server stands still between looking and removing, the
    lock of a living holder may be in its place by then: so it is renamed first, looked at again,
    and put back.
    """
    with _alone(path.parent):
        found = read_owner(path)
        if found is None or not _dead(path, *found):
            return
        away = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            path.rename(away)
        except FileNotFoundError:  # another process was faster
            return
        try:
            if read_owner(away) not in (found, None):
                with contextlib.suppress(OSError):
                    os.link(away, path)
        finally:
            away.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time clears locks in a directory, where the file system can do that:
    between looking and removing, another could have cleared the lock and taken it."""
    file = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def release(path: Path) -> None:
    """Give a lock back. One that cannot be removed is tried again with each beat, and taken as dead
    by whoever comes next in this process."""
    with _beating:
        token = _held.pop(path, None)
    if token is not None and not _removed(path, token):
        with _beating:
            _owed[path] = token


def _removed(path: Path, token: str) -> bool:
    """Remove the lock of an attempt; whether it is gone, or another's."""
    found = read_owner(path)
    try:
        if found is not None and found[0] is not None and found[0].token == token:
            path.unlink(missing_ok=True)
            return True
    except OSError:
        return False
    return found is None or found[0] is not None


def _start_beating() -> None:
    global _thread
    with _beating:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_beat, name="lock-heartbeat", daemon=True)
            _thread.start()


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        give_signs()


def give_signs() -> None:
    """One beat: touch what this process holds, remove what it could not give back."""
    with _beating:
        held, owed = [*_held.items()], [*_owed.items()]
    for path, token in held:  # while a file server stands still, this takes as long
        _touch(path, token)
    for path, token in owed:
        if _removed(path, token):
            with _beating:
                _owed.pop(path, None)


def _touch(path: Path, token: str) -> None:
    """A sign of life, unless others took the lock because this process had stood still."""
    with contextlib.suppress(OSError), open(path, "rb", opener=_opener) as file:
        owner = _parsed(file.read(4096) or b"")
        if owner is not None and owner.token == token:
            os.utime(file.fileno())  # of this very file: the name may be another's by now


def is_mine(path: Path, token: str) -> bool:
    """Whether an attempt still has its lock."""
    found = read_owner(path)
    return found is not None and found[0] is not None and found[0].token == token


def is_lost(path: Path, token: str) -> bool:
    """Whether others have taken the lock of an attempt, or had it and are done. A lock that cannot
    be read tells nothing."""
    found = read_owner(path)
    return found is None or (found[0] is not None and found[0].token != token)
