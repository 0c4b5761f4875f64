"""Keys of a run: a certificate and its key that only this run's processes can read.

They are made for one run and removed with it.
``python -m roman_dask_l2.engine.keys FOLDER PID`` makes them for a job script.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..system.processes import OWNER, is_alive, is_orphan, own
from ..system.stopping import unfinished

if TYPE_CHECKING:
    from distributed import Security

log = logging.getLogger(__name__)

PREFIX = ".roman-dask-l2-keys-"
"""What the names of directories with keys begin with."""

CERTIFICATE, KEY = "certificate.pem", "key.pem"

STALE = timedelta(days=30)
"""Age at which keys are removed of whose run it cannot be told that it is over: it was on another
machine, in another container, or before this machine was started anew."""

AROUND = timedelta(days=1)
"""By which clocks of machines may be apart."""


@contextlib.contextmanager
def run_keys(folder: Path | None = None) -> Iterator[Security]:
    """A certificate and its key in files, for the block.

    Parameters
    ----------
    folder : Path, optional
        Where the directory with them is made: all machines of the run must see it. Default: that of
        temporary files.

    Yields
    ------
    distributed.Security
        It names the files and does not hold what is in them.

    Raises
    ------
    InputError
        If they cannot be written there, or others could read or exchange them.
    """
    parent = Path(tempfile.gettempdir()) if folder is None else folder.expanduser().absolute()
    remove_orphans(parent)
    keys = None
    with contextlib.ExitStack() as stack:
        try:
            try:
                check_place(parent)
                keys = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                # Also where a thread that does not end has the process ended by force.
                stack.enter_context(unfinished(keys))
                write_keys(keys)
            except OSError as error:
                raise InputError(
                    f"{parent}: the keys of the run cannot be written there ({error.strerror})"
                ) from error
            yield security_of(keys / CERTIFICATE, keys / CERTIFICATE, keys / KEY)
        finally:
            if keys is not None:
                shutil.rmtree(keys, ignore_errors=True)


def write_keys(folder: Path, pid: int | None = None) -> None:
    """Make a certificate and its key in a directory that only its owner can enter.

    Parameters
    ----------
    folder : Path
        An empty directory.
    pid : int, optional
        Process without which they are of no use. Default: this one.

    Raises
    ------
    InputError
        If others could read what is in the directory.
    """
    found = folder.lstat()
    if stat.S_IMODE(found.st_mode) != 0o700 or found.st_uid != os.getuid():
        raise InputError(f"{folder}: others can read it, expected a directory of yours, mode 700")
    own(folder, pid)
    (folder / OWNER).chmod(0o600)
    for name, text in zip((CERTIFICATE, KEY), _certificate_and_key(), strict=True):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(folder / name, flags, 0o600), "wb") as file:
            file.write(text)


def _certificate_and_key() -> tuple[bytes, bytes]:
    """A certificate that is its own authority, and its key, in PEM.

    As ``Security.temporary`` of distributed makes them; but these are valid since yesterday, or a
    node whose clock is behind could not take part.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dask-internal")])
    alternative = x509.SubjectAlternativeName([x509.DNSName("dask-internal")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .add_extension(alternative, critical=False)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - AROUND)
        .not_valid_after(now + 366 * AROUND)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem), private


def security_of(authority: Path, certificate: Path, key: Path) -> Security:
    """Encrypted connections only, between those who have this key."""
    from distributed import Security

    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_cert": str(certificate) for role in roles}
    files |= {f"tls_{role}_key": str(key) for role in roles}
    return Security(require_encryption=True, tls_ca_file=str(authority), **files)


def remove_orphans(parent: Path) -> None:
    """Remove keys of runs that were killed on this machine, and old ones."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.getuid():
                continue
            old = found.st_mtime < time.time() - STALE.total_seconds()
            if is_orphan(folder) or (old and not is_alive(folder)):
                shutil.rmtree(folder)
                log.info("removed %s, left by a process that was killed", folder)


def check_place(parent: Path) -> None:
    """Nobody but its owner may exchange a directory there for another one, with other keys.

    Raises
    ------
    InputError
    """
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise InputError(
            f"{parent}: every user could exchange the keys of the run there, expected a directory "
            "that others may not write to, or that has the sticky bit"
        )


def main(arguments: list[str]) -> int:
    """Make keys in the directory `arguments[0]` for the process `arguments[1]`."""
    folder = Path(arguments[0])
    try:
        check_place(folder.absolute().parent)
        remove_orphans(folder.absolute().parent)
        write_keys(folder, int(arguments[1]))
    except (InputError, OSError) as error:
        print(f"roman-dask-l2: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
