"""Who does not have the key of a run gets nowhere, and the key does not outlive the run."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from roman_dask_l2.engine.keys import CERTIFICATE, KEY, PREFIX, run_keys, write_keys
from roman_dask_l2.errors import InputError

PROGRAM = """
import sys, time
from roman_dask_l2 import running
if __name__ == "__main__":
    with running("local-cluster", workers=1, threads=1):
        open(sys.argv[1], "w").close()
        time.sleep(float(sys.argv[2]))
"""

INTRUDER = Path(__file__).parents[2] / "validation" / "slurm" / "intruder.py"


def tried(*arguments):
    """What an intruder says, line by line."""
    done = subprocess.run(
        [sys.executable, INTRUDER, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextlib.contextmanager
def started(folder, seconds=120):
    """A run on a cluster; yields its process when the workers are there."""
    program, ready = folder / "program.py", folder / "ready"
    program.write_text(PROGRAM)
    ready.unlink(missing_ok=True)
    keys = folder / "tmp"
    keys.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, program, ready, str(seconds)],
        env=os.environ | {"TMPDIR": str(keys)},
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(process):
    """Addresses at which a run's processes listen."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    found = [c.laddr for p in family for c in p.net_connections("tcp") if c.status == "LISTEN"]
    return family, found


def test_a_local_cluster_lets_nobody_in(tmp_path):
    """Scheduler, nanny and worker, and the dashboard; the worker has no pages."""
    with started(tmp_path) as process:
        family, addresses = listening(process)
        assert {a.ip for a in addresses} == {"127.0.0.1"}
        assert len(addresses) == 4
        (folder,) = (tmp_path / "tmp").glob(f"{PREFIX}*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
        secret = (folder / KEY).read_text().splitlines()[1]
        for member in family:
            assert secret not in " ".join(member.cmdline())
            assert secret not in str(member.environ())
        ports = [a.port for a in addresses]
        files = [option for path in folder.iterdir() for option in ("--read", path)]
        another = ["--user", 65534, *files] if os.getuid() == 0 else []
        said = tried(*another, *ports)
        assert len(said) == 2 * len(ports) + len(another[2:]) // 2
        assert [line for line in said if not line.startswith("refused")] == []
        # The very client that is refused is let in with the key: it is the key that counts.
        said = tried("--keys", folder, *ports)
        assert sum(line.startswith("let in tls://") for line in said) == 3
        assert not any(line.startswith("let in tcp://") for line in said)


@pytest.mark.faults
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGKILL])
def test_keys_do_not_outlive_a_run(number, tmp_path):
    """Those of a run that was killed go with the next one."""
    with started(tmp_path, seconds=0 if number is None else 120) as process:
        if number is not None:
            process.send_signal(number)
        process.wait(60)
    left = list((tmp_path / "tmp").glob(f"{PREFIX}*"))
    if number == signal.SIGKILL:
        assert len(left) == 1
        with started(tmp_path, seconds=0) as process:
            assert not left[0].exists()
            process.wait(60)
        left = list((tmp_path / "tmp").glob(f"{PREFIX}*"))
    assert left == []


STUCK = """
import signal, sys, time
from pathlib import Path
from roman_dask_l2.engine.keys import run_keys
from roman_dask_l2.system import stopping

stopping.GRACE = 0.5
stopping.Stopper()
with run_keys(Path(sys.argv[1])) as security:
    assert Path(security.tls_worker_key).exists()
    while True:
        try:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(60)
"""


def test_a_run_that_is_ended_by_force_leaves_no_key(tmp_path):
    """Something in it does not end when it is told to."""
    done = subprocess.run(
        [sys.executable, "-c", STUCK, tmp_path], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert "the process was ended" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_keys_are_for_their_owner(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(InputError, match="others can read it"):
        write_keys(folder)
    assert list(folder.iterdir()) == []
    with run_keys(tmp_path) as security:
        assert Path(security.tls_worker_key).parent.parent == tmp_path
        assert "Temporary" not in repr(security)
    assert [p.name for p in tmp_path.iterdir()] == ["open"]


def test_a_planted_link_is_not_followed(tmp_path):
    """By somebody who guesses the name of the directory, if that were possible."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / KEY).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="exists"):
        write_keys(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_keys_are_good_where_clocks_are_apart(tmp_path):
    """A node whose clock is behind does not refuse them as not yet valid."""
    from cryptography import x509

    with run_keys(tmp_path):
        (file,) = tmp_path.glob(f"*/{CERTIFICATE}")
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=12)
    assert certificate.not_valid_after_utc > now + timedelta(days=300)
