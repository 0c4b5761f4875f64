"""The log of a campaign: JSON Lines, a line when an attempt begins and one when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

log = logging.getLogger(__name__)


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line: in one write, and with the file locked where the file system can do that.

    Raises
    ------
    OSError
        If it cannot be written; nothing of the line is left then.
    """
    data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
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
    finally:
        os.close(file)


def require_writable(path: Path) -> None:
    """The manifest must let us add lines.

    Raises
    ------
    InputError
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644))
    except OSError as error:
        raise InputError(
            f"manifest: {path} cannot be written ({error.strerror}); the key 'manifest' of the "
            "campaign file names another place"
        ) from None


@dataclass(frozen=True)
class History:
    """What a manifest says.

    Attributes
    ----------
    last : dict
        Identity -> its last line.
    ended : list
        All lines that end an attempt, in the order of the file.
    """

    last: dict[str, dict[str, Any]]
    ended: list[dict[str, Any]]


def read(path: Path) -> History:
    """Read a manifest; lines that are none are reported and left out.

    Raises
    ------
    InputError
        If the file is there and cannot be read.
    """
    lines = list(_lines(path))
    last = {line["identity"]: line for line in lines}
    return History(last, [line for line in lines if line["status"] != "running"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
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
            if not {"identity", "attempt", "status"} <= set(line):
                raise ValueError
        except (ValueError, TypeError):
            what = "torn, a writer was killed" if number == len(texts) else "not readable"
            log.warning("%s: line %d is %s; it is ignored", path, number, what)
            continue
        yield line
