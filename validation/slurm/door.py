"""What the checks of the door need: who listens where, where keys are seen, who gets in."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

INTRUDER = Path(__file__).with_name("intruder.py")
PREFIX = ".roman-dask-l2-keys-"
NOBODY = 65534


def keys_in(place: Path) -> list[Path]:
    """Directories with keys of runs."""
    return sorted(place.glob(f"{PREFIX}*"))


def family(place: Path) -> list[psutil.Process]:
    """Processes that work in a directory, or below it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(place):
                found.append(process)
        except psutil.Error:
            continue
    return found


def ports_of(processes: list[psutil.Process]) -> dict[int, str]:
    """Ports at which processes listen, and what listens there."""
    found = {}
    for process in processes:
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = " ".join(process.cmdline())[:200]
        except psutil.Error:
            continue
    return found


def listeners_of(process: psutil.Process) -> list[tuple[str, int]]:
    """Addresses (IPv4; 0.0.0.0 for all) and ports at which a process listens, in its own network,
    of which psutil knows nothing."""
    here = Path(f"/proc/{process.pid}")
    own = set()
    for fd in (here / "fd").iterdir():
        try:
            own.add(str(fd.readlink()))
        except OSError:
            continue
    found = []
    for name in ("tcp", "tcp6"):
        for line in (here / "net" / name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:  # listens
                host, _, port = words[1].partition(":")
                number = ".".join(map(str, bytes.fromhex(host)[-4:][::-1]))
                alone = number == "0.0.0.1"  # ::1, of which these are the last bytes
                found.append(("127.0.0.1" if alone else number, int(port, 16)))
    return found


def try_the_door(place: Path, expect: Callable[[object, str], None], listeners: int) -> Path:
    """Another user, and one without the key, are refused everywhere; the key is seen nowhere.

    Parameters
    ----------
    place : Path
        Where the run's processes work; also the only place in which its keys may be.
    expect : callable
        Complains if what it is given is false.
    listeners : int
        Ports of Dask at least.

    Returns
    -------
    Path
        The directory with the keys.
    """
    (folder,) = keys_in(place)
    expect(stat.S_IMODE(folder.stat().st_mode) == 0o700, f"mode of {folder}")
    files = sorted(folder.iterdir())
    expect(len(files) == 3, f"{files}")
    for file in files:
        expect(stat.S_IMODE(file.stat().st_mode) == 0o600, f"mode of {file}")
    processes = family(place)
    ports = ports_of(processes)
    expect(len(ports) >= listeners, f"{len(ports)} ports listen, expected {listeners}: {ports}")
    _check_refusal(folder, files, ports, expect)
    secret = (folder / "key.pem").read_text().splitlines()[1]
    for process in processes:
        try:
            shown = " ".join(process.cmdline()) + str(process.environ())
        except psutil.Error:
            continue
        expect(secret not in shown, f"process {process.pid} shows the key")
    check_files(place, secret, expect)
    return folder


def _check_refusal(
    folder: Path, files: list[Path], ports: dict[int, str], expect: Callable[[object, str], None]
) -> None:
    read = [option for file in files for option in ("--read", file)]
    for who in (["--user", NOBODY, *read], []):
        said = tried(*who, *ports)
        expect(len(said) == 2 * len(ports) + len(who[2:]) // 2, f"{said}")
        inside = [line for line in said if not line.startswith("refused")]
        expect(not inside, f"{inside} of {ports}")
    inside = [line for line in tried("--keys", folder, *ports) if line.startswith("let in tls")]
    expect(len(inside) >= 3, f"with the key only {inside}, of {ports}")


def check_files(place: Path, secret: str, expect: Callable[[object, str], None]) -> None:
    """No file in a directory has the key in it, but that of the key."""
    for file in place.rglob("*"):
        if file.is_file() and file.name != "key.pem":
            expect(secret.encode() not in file.read_bytes(), f"{file} has the key in it")


def tried(*arguments: object, before: Sequence[object] = ()) -> list[str]:
    """What the intruder says, started by the command `before`."""
    command = [*before, sys.executable, INTRUDER, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines() or [done.stderr]
