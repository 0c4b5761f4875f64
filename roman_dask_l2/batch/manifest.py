"""The log of a campaign: JSON Lines.

Some say what a batch is going to do; an attempt has one, written when it ends. Those of earlier
versions have another one when it begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.files import check_link, open_regular
from . import begun

log = logging.getLogger(__name__)

PLANNED = 50
"""Exposures in a line that says what a batch is going to do."""
_KEYS = ({"identity", "attempt", "status"}, {"batch", "planned"})
"""What a line must have, of an attempt or of a batch."""
_TRIES = 8
"""How often a line is written that others write over."""
_AFTER = 0.03
"""Seconds until a line is read again, where others write, too."""
_ends: dict[Path, int] = {}
"""Where the line ends that this process has added last."""


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line: in one write, and with the file locked where the file system can do that.

    Where a network file system cannot, two clients may write to the same place, which each takes
    for the end of the file. So the line is read again, and written again if it is not there.

    Raises
    ------
    OSError
        If it cannot be written; nothing of the line is left then.
    """
    data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    for once in range(_TRIES):
        place, alone = _append(path, data)
        if not alone:
            time.sleep(_AFTER)
        if _stands(path, data, place):
            return
        time.sleep(random.uniform(0, _AFTER * 2**once))
    raise OSError(5, "others write over it", str(path))


def _stands(path: Path, data: bytes, place: int) -> bool:
    """Whether a line is in the file, as the file server has it."""
    with open_regular(path, "a manifest") as file:
        file.seek(place)
        return file.read(len(data)) == data


def _append(path: Path, data: bytes) -> tuple[int, bool]:
    """Add a line, and tell where it begins, and whether nobody else has added any since this
    process did."""
    file = _open(path)
    try:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            data = b"\n" + data  # a writer was killed in the middle of its line
        written = os.write(file, data)
        if written < len(data):
            os.ftruncate(file, size)
            raise OSError(28, "No space left on device", str(path))
        end = os.lseek(file, 0, os.SEEK_CUR)
        alone, _ends[path] = _ends.get(path, size) == size, end
        return end - written + data.startswith(b"\n"), alone
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """The file to add to, of the user's umask. A link is followed if it is the user's own; to a
    pipe nothing is written."""
    check_link(path, f"manifest: {path}")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InputError(f"manifest: {path} is not a regular file, expected a file name")
    return file


def require_writable(path: Path) -> None:
    """The manifest must let us add lines.

    Raises
    ------
    InputError
    """
    try:
        os.close(_open(path))
    except OSError as error:
        raise InputError(
            f"manifest: {path} cannot be written ({error.strerror}); the key 'manifest' of the "
            "campaign file names another place"
        ) from None


@dataclass(frozen=True)
class History:
    """What a manifest says, and the notes on attempts that have not ended.

    Attributes
    ----------
    last : dict
        Identity -> its last line; that of an attempt which has not ended has status ``running``.
    ended : list
        All lines that end an attempt, in the order of the file.
    planned : dict
        Identity -> name of the batch that was going to do it, where that batch has not ended an
        attempt at it.
    redo : dict
        Identity -> since when (s since 1970) it is to be made again, where that was not done.
    """

    last: dict[str, dict[str, Any]]
    ended: list[dict[str, Any]]
    planned: dict[str, str] = field(default_factory=dict)
    redo: dict[str, float] = field(default_factory=dict)


def read(path: Path) -> History:
    """Read a manifest, and what has begun; lines that are none are reported and left out.

    Raises
    ------
    InputError
        If the file is there and cannot be read.
    """
    history = History({}, [])
    at_work = begun.read(path)  # first: an attempt that ends in between is seen to have ended
    for line in _lines(path):
        if "planned" in line:
            history.planned.update(dict.fromkeys(line["planned"], line["batch"]))
            if line.get("redo"):
                history.redo.update(dict.fromkeys(line["planned"], line["redo"]))
            continue
        identity, status = line["identity"], line["status"]
        history.last[identity] = line
        if status == "running":
            continue
        history.ended.append(line)
        at_work.pop(line["attempt"], None)
        # Another worker of the same batch may try again what was interrupted.
        if status == "done" or (
            status == "failed" and history.planned.get(identity) == line.get("batch")
        ):
            history.planned.pop(identity, None)
        if status == "done":
            history.redo.pop(identity, None)
    history.last.update((line["identity"], line) for line in at_work.values())
    return history


def plan_lines(
    head: Mapping[str, Any], redo: float | None, identities: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Lines that say what a batch is going to do; short ones, as each is one small write.

    Parameters
    ----------
    head : mapping
        What all have: ``batch`` and the like.
    redo : float or None
        Since when (s since 1970) these exposures are to be made again.
    identities : sequence of str
    """
    for i in range(0, len(identities), PLANNED):
        some = list(identities[i : i + PLANNED])
        yield {**head, "status": "planned", "redo": redo, "planned": some}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_regular(path, "a manifest") as file:
            data = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: the manifest cannot be read ({error.strerror})") from None
    texts = data.split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not any(keys <= set(line) for keys in _KEYS):
                raise ValueError
        except (ValueError, TypeError, RecursionError):
            what = "torn, a writer was killed" if number == len(texts) else "not readable"
            log.warning("%s: line %d is %s; it is ignored", path, number, what)
            continue
        yield line
