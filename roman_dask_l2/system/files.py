"""Opening files in directories where others may have put something in the way: a symbolic link, a
pipe, a directory of their own."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

NOT_THROUGH = os.O_NOFOLLOW | os.O_CLOEXEC
"""A symbolic link at the end of the path is an error."""
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOT_THROUGH
"""Nothing may be there, not even a link to nothing."""


def open_regular(path: str | os.PathLike[str], what: str = "a file") -> BinaryIO:
    """Open a file to read; links are followed.

    Parameters
    ----------
    path : path
    what : str
        What was expected.

    Raises
    ------
    OSError
    InputError
        If it is a pipe, which would wait for its other end, a socket or a device.
    """

    def opener(name: str, flags: int) -> int:
        fd = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(mode := os.fstat(fd).st_mode) and not stat.S_ISDIR(mode):
            os.close(fd)
            raise InputError(f"{path}: is not a regular file, expected {what}")
        return fd

    mode = os.stat(path).st_mode  # some devices do something when they are opened
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is not a regular file, expected {what}")
    return open(path, "rb", opener=opener)


def opened_here(name: str, flags: int) -> int:
    """For ``open``'s `opener`: not through a symbolic link."""
    return os.open(name, flags | NOT_THROUGH)


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors of what is done to an open file, such as that a disk is full, name it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_new(path: str | os.PathLike[str], data: bytes | str, folder: int | None = None) -> None:
    """Make a file with these contents, text in UTF-8.

    Parameters
    ----------
    path : path
    data : bytes or str
    folder : int, optional
        Open directory from which the path leads.

    Raises
    ------
    FileExistsError
        If there is anything of this name.
    """
    with open(os.open(path, NEW, 0o666, dir_fd=folder), "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def look_again(folder: str | os.PathLike[str]) -> None:
    """Have a network file system ask its server which names there are in a directory.

    For seconds to minutes it believes what it has seen, also that there is no such file. What is
    opened is asked for again ("close to open").
    """
    with contextlib.suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def status_now(path: Path) -> os.stat_result | None:
    """The status of a regular file as the server of a network file system has it now, where
    ``stat`` may give what was; None if it cannot be read, or there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return status if stat.S_ISREG(status.st_mode) else None


def clock_ahead(folder: Path) -> float:
    """By how many seconds the clock that gives files of a directory their times, that of a file
    server, goes ahead of this machine's; 0 where no file can be made."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return 0.0


def check_link(path: Path, what: str = "") -> None:
    """A symbolic link of another user does not tell where we write.

    Parameters
    ----------
    path : Path
    what : str
        Begins the error; default: the path.

    Raises
    ------
    InputError
    """
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        raise InputError(
            f"{what or path}: is a symbolic link of another user (number {status.st_uid}), "
            "expected a file name"
        )


def is_ours(path: Path) -> bool:
    """Whether a file or directory, not a link to it, belongs to this user."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode)


def is_private(folder: Path) -> bool:
    """Whether it is a directory, not a link to one, of this user, to which no other may write."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
