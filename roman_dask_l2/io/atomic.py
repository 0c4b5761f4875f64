"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..system.files import check_link, named, opened_here, status_now
from ..system.processes import space
from ..system.stopping import unfinished


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


def real_path(path: Path) -> Path:
    """Where a file lies that is to be written: what a symbolic link points to, there or not.

    Raises
    ------
    InputError
        If links lead round in a circle, or one is another user's.
    """
    if not os.path.islink(path):
        return path
    check_link(path)
    try:
        path.stat()  # follows links
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(
            f"{path}: is a symbolic link that leads nowhere ({error.strerror})"
        ) from error
    return Path(os.path.realpath(path))


def check_target(path: Path, what: str = "") -> Path:
    """A file can be written there, and be replaced as a whole.

    Parameters
    ----------
    path : Path
    what : str
        Begins the error; default: the path.

    Returns
    -------
    Path
        What the path means, see `real_path`.

    Raises
    ------
    InputError
    """
    what = what or str(path)
    try:
        real = real_path(path)
        if real.is_dir():
            raise InputError(f"{what}: is a directory, expected a file name")
        if real.exists() and not real.is_file():
            raise InputError(f"{what}: is a device or pipe, expected a file name")
        require_writable(real.parent, what)
        most = os.pathconf(real.parent, "PC_NAME_MAX")
        size = len(os.fsencode(_part_name(real, _maker())))
    except UnicodeEncodeError as error:
        raise InputError(f"{what!r}: the name is not valid UTF-8") from error
    except OSError as error:
        raise InputError(f"{what}: cannot be written ({error.strerror or error})") from error
    if size > most:
        raise InputError(
            f"{what}: the name is too long by {size - most} bytes (while it is written it is "
            "longer than in the end)"
        )
    return real


_PART = re.compile(
    r"\.(?P<stem>.+)\.(?P<host>[^/]*?)-(?P<pid>\d+)(-n(?P<space>[0-9a-f]{7}))?-[0-9a-f]{8}"
    r"\.part(?P<suffix>\.\w+)"
)


@dataclass(frozen=True)
class Part:
    """What a temporary name tells: the final name, and the process that writes the file."""

    final: str
    host: str
    pid: int
    near: bool
    """Whether that process could be seen from here: same host, same process namespace. (Containers
    may have one host name.) A name without a namespace is taken to be of this one."""


def parse_part(name: str) -> Part | None:
    """What a temporary name that `replacing` made tells; None of others."""
    found = _PART.fullmatch(name)
    if found is None:
        return None
    near = found["host"] == _host() and found["space"] in (None, _space())
    return Part(found["stem"] + found["suffix"], found["host"], int(found["pid"]), near)


def _host() -> str:
    """Without dots: what stands before one would be taken for a part of the final name."""
    return platform.node().replace(".", "_")


def _space() -> str:
    """The process namespace in 7 characters. That of a machine itself is the same after a boot."""
    namespace = space().rpartition(" ")[2]
    return hashlib.blake2b(namespace.encode(), digest_size=4).hexdigest()[:7]


def _maker() -> str:
    """What a temporary name says of the process that writes the file."""
    return f"{_host()}-{os.getpid()}-n{_space()}-{uuid.uuid4().hex[:8]}"


def _part_name(final: Path, maker: str) -> str:
    return f".{final.stem}.{maker}.part{final.suffix}"


@contextlib.contextmanager
def replacing(*finals: Path) -> Iterator[Sequence[Path]]:
    """Names to write to, beside the final ones; renamed together when the block ends well.

    Parameters
    ----------
    *finals : Path
        Names that the files get once they are complete. What stood there is replaced; a symbolic
        link stays, and what it points to is replaced. The first one is renamed last: when it is
        there, all are.

    Yields
    ------
    sequence of Path
        Temporary names in the same directories (so that renaming is one atomic step). They keep
        the suffix, which writers look at, and are removed if anything goes wrong.
    """
    maker = _maker()
    finals = tuple(real_path(final) for final in finals)
    parts = [p.with_name(_part_name(p, maker)) for p in finals]
    try:
        with unfinished(*parts):
            yield parts
        known = [_on_disk(part) for part in parts]
        for part, final, one in reversed([*zip(parts, finals, known, strict=True)]):
            _rename(part, final, one)
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink()


def _on_disk(part: Path) -> os.stat_result:
    """Have a file written to the disk, or to the server that has it; its status then."""
    with named(part), open(part, "rb", opener=opened_here) as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno())


def _rename(part: Path, final: Path, one: os.stat_result) -> None:
    """Rename a file. A server whose answer was lost is asked once more, and then knows of no
    such file, because it is renamed already."""
    try:
        os.replace(part, final)
    except FileNotFoundError:
        status = status_now(final)
        if status is None or _which(status) != _which(one):
            raise


def _which(status: os.stat_result) -> tuple[int, int, int]:
    """Numbers of files that were removed are used again."""
    return status.st_ino, status.st_size, status.st_mtime_ns
