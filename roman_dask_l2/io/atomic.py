"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError


def require_writable(folder: Path, what: str) -> None:
    """A directory must be there and let us make files.

    Parameters
    ----------
    folder : Path
    what : str
        Begins the error: the key or file that names it.

    Raises
    ------
    InputError
    """
    if not folder.is_dir():
        raise InputError(f"{what}: the directory {folder} does not exist")
    try:
        # Trying is the only sure way: permission bits say nothing of read-only file systems.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{what}: the directory {folder} is not writable ({reason})") from error


_PART = re.compile(
    r"\.(?P<stem>.+)\.(?P<host>[^/]*)-(?P<pid>\d+)-[0-9a-f]{8}\.part(?P<suffix>\.\w+)"
)


def parse_part(name: str) -> tuple[str, str, int] | None:
    """Final name, host and process of a temporary name that `replacing` made; None of others."""
    found = _PART.fullmatch(name)
    return found and (found["stem"] + found["suffix"], found["host"], int(found["pid"]))


@contextlib.contextmanager
def replacing(*finals: Path) -> Iterator[Sequence[Path]]:
    """Names to write to, beside the final ones; renamed together when the block ends well.

    Parameters
    ----------
    *finals : Path
        Names that the files get once they are complete. What stood there is replaced. The first
        one is renamed last: when it is there, all are.

    Yields
    ------
    sequence of Path
        Temporary names in the same directories (so that renaming is one atomic step). They keep
        the suffix, which writers look at, and are removed if anything goes wrong.
    """
    maker = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    parts = [p.with_name(f".{p.stem}.{maker}.part{p.suffix}") for p in finals]
    try:
        yield parts
        for part in parts:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        for part, final in reversed([*zip(parts, finals, strict=True)]):
            os.replace(part, final)
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink()
