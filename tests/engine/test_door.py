"""Who does not have the key of a run gets nowhere, and the key does not outlive the run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import psutil
import pytest
from tornado.routing import PathMatches

from roman_dask_l2 import running
from roman_dask_l2.engine import clusters, keys, private, slurm
from roman_dask_l2.engine.door import OPEN_DOOR
from roman_dask_l2.engine.keys import CERTIFICATE, KEY, PREFIX, run_keys, write_keys
from roman_dask_l2.engine.private import SCRATCH
from roman_dask_l2.errors import InputError
from roman_dask_l2.system import processes
from roman_dask_l2.system.processes import OWNER

PROGRAM = """
import sys, time
from roman_dask_l2 import running
from roman_dask_l2.engine import clusters, keys, private, slurm
from roman_dask_l2.engine.door import OPEN_DOOR
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
        # Three at once, as what is refused waits for its time to be over.
        with ThreadPoolExecutor(3) as pool:
            ways = (another, [], ["--keys", folder])
            of_another, without_key, with_key = pool.map(lambda way: tried(*way, *ports), ways)
        assert len(without_key) == 2 * len(ports)
        assert len(of_another) == len(without_key) + len(another[2:]) // 2
        said = of_another + without_key
        assert [line for line in said if not line.startswith("refused")] == []
        # The very client that is refused is let in with the key: it is the key that counts.
        assert sum(line.startswith("let in tls://") for line in with_key) == 3
        assert not any(line.startswith("let in tcp://") for line in with_key)


def handlers(router, seen=()):
    """Paths that a router knows, as regular expressions, and what answers there."""
    for rule in getattr(router, "rules", ()):
        if isinstance(rule.target, type):
            if isinstance(rule.matcher, PathMatches):
                yield rule.matcher.regex.pattern, rule.target
        elif rule.target not in seen:
            yield from handlers(rule.target, (*seen, router))


def test_pages_show_and_do_nothing():
    """Another user asks for every page of the scheduler and sends something to each."""
    with running("local-cluster", workers=1, threads=1) as client:
        workers = client.nthreads()
        scheduler = client.cluster.scheduler
        plugins = set(scheduler.plugins)
        known = set()
        application = scheduler.http_application
        for app in (application, *application.applications):
            for router in (app.default_router, app.wildcard_router):
                known.update(handlers(router))
        does = ("post", "put", "delete", "patch")
        kinds = {kind for _, kind in known}
        assert {kind for kind in kinds if any(name in vars(kind) for name in does)} == set()
        # One page of each kind, and what must not be there.
        paths = {kind: path for path, kind in sorted(known, key=str)}.values()
        paths = {p.rstrip("$?").replace("(.*)", "x").replace("\\.", ".") for p in paths}
        absent = {
            "/api/v1/retire_workers", "/api/v1/adaptive_target", "/jupyter/lab", "/eventstream",
            f"/proxy/{scheduler.http_server.port}/127.0.0.1/status",
        }  # fmt: skip
        assert {"/health", "/info/main/workers.html", "/status"} & paths
        another = ["--user", 65534] if os.getuid() == 0 else []
        options = [option for path in paths | absent for option in ("--page", path)]
        said = tried(*another, *options, scheduler.http_server.port)
        assert len(said) == 5 * len(paths | absent)
        status = {tuple(line.split()[:2]): line.split()[2] for line in said}
        assert {status[method, path] for method, path in status if path in absent} == {"404"}
        sent = {status[method, path] for method, path in status if method != "GET"}
        assert sent == {"404", "405"}
        assert "200" in status.values()
        assert client.nthreads() == workers
        assert client.submit(int, "3").result(30) == 3
        assert set(scheduler.plugins) == plugins


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


@pytest.mark.parametrize("whose", ["of another boot", "of a run that lives", "of one that is dead"])
@pytest.mark.parametrize("days", [0, 29, 31])
def test_old_keys_are_removed(whose, days, tmp_path):
    """Those of which nobody can tell whether their run lives, such as of a container, go some
    day."""
    folder = tmp_path / f"{PREFIX}abcd"
    folder.mkdir(mode=0o700)
    write_keys(folder)
    owner = folder / OWNER
    if whose != "of a run that lives":
        boot, pid, born = owner.read_text().splitlines()
        owner.write_text(
            f"another boot\n{pid}\n{born}\n" if "boot" in whose else f"{boot}\n{2**22 + 1}\n1.0\n"
        )
    then = time.time() - 86400 * days
    os.utime(folder, (then, then))
    with run_keys(tmp_path):
        pass
    stays = whose == "of a run that lives" or (whose == "of another boot" and days < 30)
    assert folder.exists() == stays


@pytest.mark.parametrize(("mode", "fine"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_keys_cannot_be_exchanged_by_everybody(mode, fine, tmp_path):
    """In a directory without the sticky bit whoever may write there may rename what others have."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    if fine:
        with run_keys(place):
            assert len(list(place.iterdir())) == 1
    else:
        with pytest.raises(InputError, match="every user could exchange the keys"), run_keys(place):
            pass
        folder = place / "keys"
        folder.mkdir(mode=0o700)
        assert keys.main([str(folder), str(os.getpid())]) == 2
        assert list(folder.iterdir()) == []


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


# -- what opens the door, and what does not --------------------------------------------------------


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A SLURM that runs jobs at once, on this machine; yields where it keeps their scripts."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    script = folder / "script"
    scripts = {
        "sbatch": f'cp "$1" {script}; setsid bash {script} </dev/null >{folder}/log 2>&1 & '
        f'echo $! >>{folder}/jobs; echo "Submitted batch job $!"',
        "scancel": "true",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield folder
    for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else ():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(job), signal.SIGKILL)


def settings(folder, text):
    file = folder / "slurm.yaml"
    file.write_text(f"interface: lo\n{text}\n")
    return file


class Enough(Exception):
    """The cluster is there; its workers are not waited for."""


@pytest.fixture
def no_workers(monkeypatch):
    def enough(*_):
        raise Enough

    monkeypatch.setattr(clusters, "_wait_for_workers", enough)


@pytest.mark.parametrize(
    ("scheduler", "protocol"),
    [("local-cluster", ""), ("slurm", ""), ("slurm", "protocol: tcp://"),
     ("slurm", "scheduler_options: {protocol: tcp}")],
)  # fmt: skip
def test_an_open_door_is_told_in_one_line(
    scheduler, protocol, sbatch, no_workers, tmp_path, caplog
):
    where = {"slurm_config": settings(tmp_path, protocol)} if scheduler == "slurm" else {}
    with pytest.raises(Enough), running(scheduler, workers=1, insecure=True, **where):
        pass
    warned = [r.getMessage() for r in caplog.records if r.name.startswith("roman_dask_l2")]
    assert warned == [f"--insecure: {OPEN_DOOR}"]
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    if scheduler == "slurm":
        script = (sbatch / "script").read_text()
        assert "tcp://" in script
        assert "--tls" not in script


@pytest.mark.parametrize(
    ("text", "insecure", "message"),
    [
        ("protocol: tcp://", False, f"protocol tcp://: {OPEN_DOOR}; expected tls://, or"),
        ("protocol: ws", False, f"protocol ws: {OPEN_DOOR}"),
        ("scheduler_options: {protocol: 'tcp://'}", False, "scheduler_options: protocol tcp://: "),
        ("scheduler_options: {security: null}", False, "scheduler_options: security means nothing"),
        ("scheduler_options: {jupyter: true}", False, "jupyter: whoever reaches the dashboard can"),
        ("protocol: tls://", True, "protocol tls:// and --insecure: expected one of them"),
    ],
)  # fmt: skip
def test_settings_of_slurm_open_no_door(text, insecure, message, tmp_path, sbatch):
    file = settings(tmp_path, text)
    with (
        pytest.raises(InputError, match=re.escape(message)) as refused,
        running("slurm", slurm_config=file, insecure=insecure),
    ):
        pass
    assert str(refused.value).startswith("--scheduler slurm: ")
    assert len(str(refused.value).splitlines()) == 1
    assert not (sbatch / "jobs").exists()


def test_certificates_of_dasks_configuration_let_in():
    """To an address, without options; and not without them."""
    with running("local-cluster", workers=1, threads=1) as client:
        address, security = client.scheduler.address, client.security
        mine = {
            "distributed.comm.tls.ca-file": security.tls_ca_file,
            "distributed.comm.tls.client.cert": security.tls_client_cert,
            "distributed.comm.tls.client.key": security.tls_client_key,
        }
        with dask.config.set(mine), running(address, workers=1) as another:
            assert another.submit(int, "3").result(30) == 3
        with (
            pytest.raises(InputError, match=r"expected .*distributed\.comm\.tls"),
            running(address, workers=1),
        ):
            pass


def test_an_allocation_has_the_same_pages():
    """Its scheduler and workers are told by variables what others are told by Dask's settings."""
    script = (Path(__file__).parents[2] / "deploy/slurm/one-allocation.sbatch").read_text()
    exports = "\n".join(re.findall(r"^export DASK_.*$", script, re.MULTILINE))
    shell = subprocess.run(
        ["bash", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True, env={}
    )
    told = dask.config.collect_env(dict(re.findall(r"^(\w+)=(.*)$", shell.stdout, re.MULTILINE)))
    for place in ("scheduler", "worker"):
        key = f"distributed.{place}.http.routes"
        assert dask.config.get(key, config=told) == clusters.CONFIGURATION[key]
    for option in slurm.NO_PAGES:
        assert option in script


LOOK = """
def dask_setup(worker):
    app = worker.http_application
    rules = [rule for router in (app.default_router, app.wildcard_router) for rule in router.rules]
    with open({!r}, "a") as file:
        addresses = [s.getsockname()[0] for s in worker.http_server._sockets.values()]
        names = [r.target.__name__ for r in all_rules(rules) if isinstance(r.target, type)]
        print(worker._dashboard, addresses, names, len(app.applications), file=file)

def all_rules(rules):
    for rule in rules:
        yield rule
        yield from all_rules(getattr(rule.target, "rules", ()))
"""


def test_workers_of_jobs_have_no_pages_at_any_time(sbatch, tmp_path):
    """Whatever their options say; looked at as soon as they could have any."""
    seen, look = tmp_path / "seen", tmp_path / "look.py"
    look.write_text(LOOK.format(str(seen)))
    args = ["--preload", str(look), "--dashboard", "--dashboard-address", "0.0.0.0:0"]
    file = settings(tmp_path, f"worker_extra_args: {args}\ncores: 1\nmemory: 1GB")
    with running("slurm", workers=1, slurm_config=file, wait=120) as client:
        (worker,) = client.scheduler_info()["workers"].values()
        assert "dashboard" not in worker["services"]
        pids = client.run(os.getpid).values()
        found = [c for pid in pids for c in psutil.Process(pid).net_connections("tcp")]
        assert len([c for c in found if c.status == "LISTEN"]) == 1
    # At the one port that Dask opens: nothing but its list of pages, for this machine.
    assert seen.read_text().splitlines() == ["False ['127.0.0.1'] ['DirectoryHandler'] 0"]


# -- what Dask keeps on a disk ---------------------------------------------------------------------


def test_scratch_of_others_is_not_used(tmp_path):
    """Somebody else was the first to make Dask's usual directory, and has put links into it."""
    place, victim = tmp_path / "tmp", tmp_path / "victim"
    planted = place / "dask-scratch-space"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    victim.write_text("precious")
    for name in ("global.lock", "purge.lock"):
        (planted / name).symlink_to(victim)
    with started(tmp_path) as process:
        assert victim.read_text() == "precious"
        assert len(list(planted.iterdir())) == 2
        (scratch,) = place.glob(f"{SCRATCH}*")
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
        assert len(list((scratch / "dask-scratch-space").glob("worker-*[!k]"))) == 1
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert [p.name for p in place.iterdir()] == ["dask-scratch-space"]


@pytest.mark.parametrize("own", [None, "$TMPDIR/mine"])
def test_scratch_of_jobs_is_private(own, sbatch, tmp_path, monkeypatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    file = settings(tmp_path, f"cores: 1\nmemory: 1GB\nlocal_directory: {own or 'null'}")

    def where(dask_worker):
        return dask_worker.local_directory

    stale = place / "mine" / f"{SCRATCH}abcd" if own else place / f"{SCRATCH}abcd"
    stale.mkdir(parents=True)
    processes.own(stale)
    boot = (stale / OWNER).read_text().splitlines()[0]
    (stale / OWNER).write_text(f"{boot}\n{2**22 + 1}\n1.0\n")  # of a job that was killed
    with running("slurm", workers=1, slurm_config=file, wait=120) as client:
        assert not stale.exists()
        (worker,) = client.run(where).values()
        below = Path(worker).relative_to(place).parts
        assert below[:-3] == (() if own is None else ("mine",))
        assert below[-3].startswith(SCRATCH)
        mine = Path(worker).parents[1]
        assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    end = time.monotonic() + 60
    while mine.exists():  # the job ends when its scheduler has
        assert time.monotonic() < end
        time.sleep(0.1)


def test_scratch_of_a_job_cannot_be_exchanged(tmp_path, capsys):
    tmp_path.chmod(0o777)
    assert private.main([str(tmp_path), str(os.getpid())]) == 2
    assert "every user could exchange Dask's temporary files there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
