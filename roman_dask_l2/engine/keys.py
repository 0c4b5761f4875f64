"""Keys of a run: a certificate and its key that only this run's processes can read.

They are made for one run and removed with it.
``python -m roman_dask_l2.engine.keys FOLDER PID`` makes them for a job script.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..system.processes import OWNER, own
from .private import check_place, named, private_folder, remove_orphans

if TYPE_CHECKING:
    from distributed import Security

PREFIX = ".roman-dask-l2-keys-"
"""What the names of directories with keys begin with."""

CERTIFICATE, KEY = "certificate.pem", "key.pem"

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
    with private_folder(parent, PREFIX, "the keys of the run") as keys:
        with named(parent, "the keys of the run"):
            write_keys(keys)
        yield security_of(keys / CERTIFICATE, keys / CERTIFICATE, keys / KEY)


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


def main(arguments: list[str]) -> int:
    """Make keys in the directory `arguments[0]` for the process `arguments[1]`."""
    folder = Path(arguments[0])
    try:
        check_place(folder.absolute().parent, "the keys of the run")
        remove_orphans(folder.absolute().parent, PREFIX)
        write_keys(folder, int(arguments[1]))
    except (InputError, OSError) as error:
        sys.stderr.write(f"roman-dask-l2: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
