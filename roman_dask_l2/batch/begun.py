"""Attempts that have begun and not ended: a file for each, in a directory beside the manifest.

The manifest has one line for an attempt, which is written when it ends. What its process could not
write, because it was killed, is here until somebody else has the lock of the exposure.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..system.files import NEW, NOT_THROUGH
from .locks import DEAD_AFTER

KEYS = {"identity", "attempt", "status"}
"""What a file must have."""
_NAME = re.compile(r"[0-9a-f]{32}\.json")
_LONGEST = 1 << 16
"""Bytes; a file of this program has less than a thousand."""


def folder_of(manifest: Path) -> Path:
    """Where the files are: beside what the manifest may be a link to."""
    real = Path(os.path.realpath(manifest))
    return real.with_name(f".{real.name}.begun")


def note(manifest: Path, line: Mapping[str, Any]) -> None:
    """Note that an attempt has begun.

    Raises
    ------
    OSError
        If that cannot be written; nothing is left of it then.
    """
    folder = folder_of(manifest)
    data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode()
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        # Whoever ends an attempt removes the directory if it is the last.
        with contextlib.suppress(FileNotFoundError), _opened(folder) as place:
            name = _name(line["attempt"])
            file = os.open(name, NEW, 0o666, dir_fd=place)
            try:
                try:
                    written = os.write(file, data)
                finally:
                    os.close(file)
                if written < len(data):
                    raise OSError(28, "No space left on device", str(folder))
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=place)
                    folder.rmdir()
                raise
            return


def forget(manifest: Path, *attempts: str) -> None:
    """Attempts have ended, and the manifest says so. What cannot be removed does no harm."""
    folder = folder_of(manifest)
    with contextlib.suppress(OSError), _opened(folder) as place:
        for attempt in attempts:
            with contextlib.suppress(OSError):
                os.unlink(_name(attempt), dir_fd=place)
        folder.rmdir()


def read(manifest: Path) -> dict[str, dict[str, Any]]:
    """What is noted; files that cannot be read, or are none of this program's, are left out.

    Returns
    -------
    dict
        Attempt -> its line, those that began first first.
    """
    found = {}
    with contextlib.suppress(OSError), _opened(folder_of(manifest)) as place:
        for name in os.listdir(place):
            line = _line(name, place) if _NAME.fullmatch(name) else None
            if line is not None and name == _name(line["attempt"]):
                found[line["attempt"]] = line
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("started", ""))))


def tidy(manifest: Path) -> None:
    """Remove what a process has left that was killed while it noted something."""
    known = read(manifest)
    with contextlib.suppress(OSError), _opened(folder_of(manifest)) as place:
        for name in os.listdir(place):
            if _NAME.fullmatch(name) and name.removesuffix(".json") not in known:
                with contextlib.suppress(OSError):
                    age = time.time() - os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime
                    if age > DEAD_AFTER:
                        os.unlink(name, dir_fd=place)


def _name(attempt: str) -> str:
    return f"{attempt}.json"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A directory, not through a link."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NOT_THROUGH)
    try:
        yield place
    finally:
        os.close(place)


def _line(name: str, place: int) -> dict[str, Any] | None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOT_THROUGH, dir_fd=place)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return None
            line = json.loads(os.read(file, _LONGEST))
        finally:
            os.close(file)
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(line, dict) and set(line) >= KEYS
    return line if good and all(isinstance(line[key], str) for key in KEYS) else None
