"""Where the work runs must not matter: the same bits, little on the network, clear errors."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import dask
import pytest
import yaml
from configuring import elsewhere
from dask_jobqueue import SLURMCluster
from dask_jobqueue.core import Job, JobQueueCluster
from dask_jobqueue.slurm import SLURMJob

from roman_dask_l2.cli import app
from roman_dask_l2.engine import clusters, slurm
from roman_dask_l2.engine.backends import BACKENDS, Backend, SchedulerOptions
from roman_dask_l2.engine.clusters import ENVIRONMENT
from roman_dask_l2.engine.schedulers import names, running
from roman_dask_l2.engine.slurm import load_settings, parse_walltime
from roman_dask_l2.errors import ClusterError, InputError, NoWorkers, WorkersDied
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise

ROOT = Path(__file__).parents[2]
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

spec = importlib.util.spec_from_file_location("compare", ROOT / "validation/slurm/compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

TILE = 64
LAYERS = ["RS2", "Rz1C", "PbS2", "O"]


def configuration(made, folder, layers=LAYERS):
    """The configuration of a simulated exposure, its outputs in `folder`."""
    return elsewhere(made, folder, layers)


def make_both(config, scheduler, **options):
    calibrate(config, scheduler=scheduler, tile=TILE, **options)
    generate_noise(config, scheduler=scheduler, tile=TILE, **options)


def the_key(cluster):
    """Options with which another client is let in."""
    security = cluster.security
    return {
        "tls_ca_file": security.tls_ca_file,
        "tls_cert": security.tls_client_cert,
        "tls_key": security.tls_client_key,
    }


def check_same(folder, reference):
    names = sorted(p.name for p in reference.glob("*") if p.suffix in (".asdf", ".fits"))
    assert len(names) == 4
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names, "config.yaml", "temp"])
    assert list((folder / "temp").iterdir()) == []
    for name in names:
        assert compare.differences(reference / name, folder / name) == []


@pytest.fixture(scope="module")
def made(simulated):
    return simulated(seed=4)


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    """What threads of this process make."""
    folder = tmp_path_factory.mktemp("reference")
    make_both(configuration(made, folder), "local")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Two processes on this machine, for all tests of the file."""
    with running("local-cluster", workers=2, threads=1) as client:
        yield client


# -- the same bits -------------------------------------------------------------------------------


def test_synchronous(made, reference, tmp_path):
    make_both(configuration(made, tmp_path), "synchronous")
    check_same(tmp_path, reference)


def test_local_cluster(made, reference, cluster, tmp_path):
    make_both(configuration(made, tmp_path), cluster)
    check_same(tmp_path, reference)


def test_address(made, reference, cluster, tmp_path):
    with running(cluster.scheduler.address, workers=2, **the_key(cluster)) as client:
        assert client is not cluster
        make_both(configuration(made, tmp_path), client)
    check_same(tmp_path, reference)


def test_scheduler_file_on_the_command_line(made, reference, cluster, tmp_path, capsys):
    """Both stages with one client; Dask's own report."""
    file, report = tmp_path / "scheduler.json", tmp_path / "report.html"
    folder = tmp_path / "out"
    config = configuration(made, folder)
    file.write_text(json.dumps({"address": cluster.scheduler.address}))
    arguments = ["--scheduler-file", file, "--performance-report", report, "--tile", TILE]
    for name, path in the_key(cluster).items():
        arguments += ["--" + name.replace("_", "-"), path]
    assert app.main([str(a) for a in (config, *arguments)]) == 0
    said = capsys.readouterr().err
    assert f"dashboard: {cluster.dashboard_link}" in said
    assert "workers ready" in said
    assert "dq_init-to-flat" in report.read_text()
    check_same(folder, reference)


def test_two_exposures_at_once(simulated, made, reference, cluster, tmp_path):
    """From two threads, on one cluster: their tasks must not be taken for each other's."""
    other = simulated(seed=5, conditions="plain")
    folders = [tmp_path / name for name in ("one", "two", "alone")]
    configs = [configuration(m, f) for m, f in zip((made, other, other), folders, strict=True)]
    failed = []

    def work(config):
        try:
            make_both(config, cluster)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(config,)) for config in configs[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert failed == []
    make_both(configs[2], "local")
    check_same(folders[0], reference)
    check_same(folders[1], folders[2])


# -- what a cluster is like ----------------------------------------------------------------------


def sent(dask_worker):
    return dask_worker.transfer_outgoing_bytes_total


def test_frames_do_not_travel(made, cluster, tmp_path):
    """All that workers send, to each other and to the client, in bytes."""
    config = configuration(made, tmp_path)
    shape = read_layout(made.l1).array("roman", "data").shape
    plane = 2 * shape[1] * shape[2]  # one resultant of the exposure, 16 bits
    before = sum(cluster.run(sent).values())
    calibrate(config, scheduler=cluster, tile=TILE)
    calibrated = sum(cluster.run(sent).values()) - before
    generate_noise(config, scheduler=cluster, tile=TILE)
    layers = sum(cluster.run(sent).values()) - before - calibrated
    assert 0 < calibrated < plane
    assert 0 < layers < plane * len(LAYERS)


def test_tasks_are_called_after_their_steps(made, cluster, tmp_path):
    """What the dashboard shows."""
    config = configuration(made, tmp_path, layers=["RP"])
    calibrate(config, scheduler=cluster, tile=TILE, per_step=True)
    generate_noise(config, scheduler=cluster, tile=TILE)
    known = cluster.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    steps = {"saturation", "refpix", "linearity", "ipc", "ramp_fit", "mask", "sky"}
    assert steps | {"noise-plane", "draw", "finish-layer"} <= set(known)


def test_workers_are_born_with_their_environment(cluster):
    for found in cluster.run(lambda: dict(os.environ)).values():
        assert {name: found.get(name) for name in ENVIRONMENT} == ENVIRONMENT


def test_tiles_are_handed_out_one_at_a_time(cluster):
    assert cluster.run_on_scheduler(lambda dask_scheduler: dask_scheduler.WORKER_SATURATION) == 1


def test_the_dashboard_is_local(cluster):
    assert cluster.dashboard_link.startswith("http://127.0.0.1:")


def test_a_local_cluster_tells_its_dashboard_before_it_has_workers(caplog):
    """So the limit for workers applies to it, too, and one sees that they are waited for."""
    caplog.set_level(logging.INFO, "roman_dask_l2")
    with (
        pytest.raises(NoWorkers, match="none of 2 workers was ready within 0.02 s"),
        running("local-cluster", workers=2, threads=1, wait=0.02),
    ):
        pass
    ours = [record for record in caplog.records if record.name == "roman_dask_l2.engine.clusters"]
    said = [record.getMessage() for record in ours]
    assert said[0].startswith("dashboard: http://127.0.0.1:")
    assert said[1] == "0 of 2 workers ready, waiting (limit 0.02 s)"


@pytest.mark.parametrize(
    ("workers", "threads", "made"),
    [(None, 2, (3, 2)), (3, None, (3, 2)), (4, None, (4, 1)), (5, 7, (5, 7)), (None, 9, (1, 9))],
)
def test_processes_and_threads(monkeypatch, workers, threads, made):
    """On six processors, where only one of the numbers is given."""
    monkeypatch.setattr(clusters, "cpu_count", lambda: 6)
    assert clusters._processes(workers, threads) == made


@pytest.mark.faults
def test_workers_that_follow_are_born_with_their_environment(monkeypatch):
    """Whatever the shell has, also those that take the place of lost ones."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with running("local-cluster", workers=1, threads=1) as client:
        (first,) = client.nthreads()
        client.retire_workers([first])
        end = time.monotonic() + 60
        while first in client.nthreads() or not client.nthreads():
            assert time.monotonic() < end
            time.sleep(0.1)
        found = client.run(lambda: dict(os.environ))
    assert [env["OMP_NUM_THREADS"] for env in found.values()] == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


class Slow:
    """What takes longer to be thrown away than a nanny waits."""

    def __del__(self):
        time.sleep(8)


def die_slowly(said):
    """On a worker: clearing the modules will take its time; say when the process ends."""
    import atexit
    import types

    sys.modules["slow"] = types.ModuleType("slow")
    sys.modules["slow"].it = Slow()
    atexit.register(Path(said).write_text, "ended")


@pytest.mark.faults
def test_workers_end_in_good_order(tmp_path, caplog):
    """However long Python takes to clear all modules: none is killed, what they do at exit is
    done."""
    said = tmp_path / "said"
    with running("local-cluster", workers=1, threads=1) as client:
        client.run(die_slowly, str(said))
        workers = list(client.run(os.getpid).values())
    assert len(workers) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert said.read_text() == "ended"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_client_is_left_open(cluster):
    with running(cluster) as client:
        assert client is cluster
        assert dask.delayed(os.getpid)().compute() != os.getpid()
    assert cluster.status == "running"


def test_without_a_cluster():
    with running("local") as client:
        assert client is None
        assert dask.delayed(os.getpid)().compute() == os.getpid()


# -- failures ------------------------------------------------------------------------------------


def break_file(path):
    raise InputError(f"{path}: ends too early (truncated file?)")


def test_a_failing_task_says_why(cluster):
    """As on this machine: same exception, same sentence."""
    task = dask.delayed(break_file)("dark.asdf")
    with pytest.raises(InputError, match="dark.asdf: ends too early"), running(cluster):
        task.compute()


@pytest.mark.faults
def test_a_task_that_ends_its_workers(cluster):
    def allow(number, dask_scheduler):
        before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, number
        return before

    before = cluster.run_on_scheduler(allow, 1)
    task = dask.delayed(lambda: os.kill(os.getpid(), signal.SIGKILL))(
        dask_key_name="ipc-00112233445566778899aabbccddeeff"
    )
    message = r"task ipc was tried 2 times and its worker died each time.*--memory"
    with pytest.raises(WorkersDied, match=message), running(cluster):
        task.compute()
    cluster.run_on_scheduler(allow, before)
    cluster.wait_for_workers(2, timeout=60)


def test_waits_for_work_that_cannot_be_stopped(cluster, tmp_path):
    """A failed run goes on only when no task of it can write any more."""

    def slow(path):
        path.with_name("begun").touch()
        time.sleep(1.5)
        path.write_text("done")

    def fail(path):
        while not path.with_name("begun").exists():
            time.sleep(0.01)
        raise ValueError("no")

    late = tmp_path / "late"
    with pytest.raises(ValueError, match="no"), running(cluster):
        dask.compute(dask.delayed(slow)(late), dask.delayed(fail)(late))
    assert late.exists()


def test_nobody_answers(tmp_path):
    began = time.monotonic()
    with (
        pytest.raises(ClusterError, match="tcp://127.0.0.1:9: no Dask scheduler answers"),
        running("tcp://127.0.0.1:9", wait=1, insecure=True),
    ):
        pass
    with (
        pytest.raises(ClusterError, match="no.json: no scheduler wrote it within 0.5 s"),
        running(scheduler_file=tmp_path / "no.json", wait=0.5),
    ):
        pass
    assert time.monotonic() - began < 200  # 300 is the default


def test_no_cluster_is_status_3(made, tmp_path, capsys):
    config = configuration(made, tmp_path)
    address = ["--scheduler", "tcp://127.0.0.1:9", "--insecure"]
    assert app.main([str(config), *address, "--wait", "1"]) == 3
    assert "no Dask scheduler answers" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "l2.asdf").exists()


def test_bad_input_is_told_before_a_cluster_is_asked(made, tmp_path, capsys):
    config = configuration(made, tmp_path, layers=["R?"])
    assert app.main([str(config), "--scheduler", "tcp://127.0.0.1:9", "--insecure"]) == 2
    assert "R?" in capsys.readouterr().err


def test_no_workers(tmp_path, caplog):
    """A scheduler without workers: an error after the limit."""
    file = tmp_path / "scheduler.json"
    command = [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port",
        "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as scheduler:
        try:
            end = time.monotonic() + 60
            while not file.exists():
                assert time.monotonic() < end
                time.sleep(0.05)
            caplog.set_level(logging.INFO, "roman_dask_l2")
            with (
                pytest.raises(NoWorkers, match="none of 4 workers was ready within 2 s"),
                running(scheduler_file=file, workers=4, wait=2, insecure=True),
            ):
                pass
        finally:
            scheduler.kill()
    assert "0 of 4 workers ready, waiting (limit 2 s)" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "dask"}, r"--scheduler dask: expected one of local, .* tls://host:port"),
        ({"scheduler": "tcp://host"}, "--scheduler tcp://host: expected an address"),
        ({"threads": 0}, "--threads 0: expected at least 1"),
        ({"workers": 2}, "--workers means nothing to --scheduler local"),
        ({"scheduler": "synchronous", "interface": "lo"}, "--interface means nothing to"),
        ({"scheduler": "tls://127.0.0.1:9", "threads": 2}, "--threads means nothing to a running"),
        ({"scheduler": "local-cluster", "slurm_config": "x"}, "--slurm-config means nothing"),
        ({"scheduler": "local-cluster", "memory": "much"}, "--memory much: expected an amount"),
        ({"scheduler": "local-cluster", "wait": 0}, "--wait 0: expected seconds"),
        ({"scheduler": "local-cluster", "interface": "xx9"}, "xx9"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "can run code as you; expected tls://host:port, or"),
        ({"scheduler": "tls://127.0.0.1:9"}, "expected --tls-ca-file, --tls-cert and --tls-key"),
        ({"scheduler": "tls://127.0.0.1:9", "insecure": True}, "and --insecure: expected one of"),
        ({"insecure": True}, "--insecure means nothing to --scheduler local"),
        (
            {"scheduler": "tls://127.0.0.1:9", "tls_cert": "x"},
            "--tls-ca-file, --tls-key: expected all of",
        ),
        (
            {"scheduler": "slurm", "scheduler_file": "x"},
            "--scheduler slurm and --scheduler-file: expected one of them",
        ),
        (
            {"scheduler": "local-cluster", "performance_report": "/no/such/place.html"},
            "--performance-report /no/such/place.html: the directory /no/such does not exist",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message), running(**options):
        pass


def test_certificates_or_no_lock_but_not_both(tmp_path, caplog):
    """Also where only the scheduler's file says which of the two it is."""
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "tls://127.0.0.1:9"}))
    both = "and --insecure: expected one of them"
    with pytest.raises(InputError, match=both), running(scheduler_file=file, insecure=True):
        pass
    tls = dict.fromkeys(("tls_ca_file", "tls_cert", "tls_key"), __file__)
    with pytest.raises(InputError, match=both), running("tcp://127.0.0.1:9", insecure=True, **tls):
        pass
    assert "can run code as you" not in caplog.text


@pytest.mark.parametrize("text", ["", "[1", "{}", '{"address": 1'])
def test_wrong_scheduler_file(tmp_path, text):
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    with (
        pytest.raises(InputError, match="expected a file that dask scheduler has written"),
        running(scheduler_file=file, wait=1),
    ):
        pass


def test_half_a_scheduler_file(tmp_path):
    """Read in the moment in which Dask writes it."""
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://127')
    threading.Timer(0.4, lambda: file.write_text('{"address": "tcp://127.0.0.1:9"}')).start()
    assert clusters._address("local", file, 10) == "tcp://127.0.0.1:9"


# -- settings of SLURM ---------------------------------------------------------------------------


def known_arguments():
    import inspect

    return {
        name
        for cls in (Job, SLURMJob, JobQueueCluster)
        for name in inspect.signature(cls.__init__).parameters
    }


def test_every_setting_is_one_of_dask_jobqueue():
    defaults = yaml.safe_load(slurm.defaults_file().read_text())
    assert set(defaults) <= known_arguments()
    assert {*slurm.NUMBERS, *slurm.LISTS, *slurm.MAPPINGS} <= set(defaults)
    for key, value in defaults.items():
        assert value is None or slurm._mismatch(key, value) == ""


def test_who_wins(tmp_path):
    """deploy/slurm.yaml < Dask's configuration < the file < options."""
    file = tmp_path / "slurm.yaml"
    file.write_text("account: gamma\nqueue: null\ncores: 8\nprocesses: 2\n")
    mine = {"jobqueue.slurm.queue": "long", "jobqueue.slurm.account": "beta",
            "jobqueue.slurm.name": "mine"}  # fmt: skip
    with dask.config.set(mine):
        assert load_settings()["account"] == "beta"
        found = load_settings(file)
        assert (found["account"], found["queue"], found["cores"]) == ("gamma", "long", 8)
        assert found["job_name"] == "mine"
        found = load_settings(file, threads=3, memory="2GB", interface="lo")
    assert (found["cores"], found["memory"], found["interface"]) == (6, "4000000000B", "lo")
    assert found["scheduler_options"] == {"dashboard_address": "127.0.0.1:8787"}
    assert load_settings()["cores"] == 4


def test_the_job_script():
    settings = load_settings(threads=2, environment=ENVIRONMENT)
    assert "--lifetime" in settings["worker_extra_args"]
    with SLURMCluster(**{**settings, "interface": "lo", "log_directory": None}) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    last_export = max(i for i, line in enumerate(lines) if line.startswith("export "))
    assert {f"export {k}={v}" for k, v in ENVIRONMENT.items()} <= set(lines[: last_export + 1])
    worker = next(i for i, line in enumerate(lines) if "dask_worker" in line)
    assert last_export < worker
    assert "#SBATCH --cpus-per-task=2" in lines
    assert "--lifetime 3240s --lifetime-stagger 180s" in lines[worker]


def test_a_lifetime_of_ones_own(tmp_path):
    file = tmp_path / "slurm.yaml"
    file.write_text("worker_extra_args: [--lifetime, 10m]")
    assert load_settings(file)["worker_extra_args"][:2] == ["--lifetime", "10m"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qeue: long", "unknown key qeue, did you mean queue?"),
        ("walltime: 12:00:00", 'walltime is 43200, expected text such as "12:00:00", in quotes'),
        ("cores: many", "cores is 'many', expected a whole number from 1 up"),
        ("memory: much", "memory is 'much', expected an amount such as 16GB"),
        ("job_script_prologue: module load x", "expected a list of texts"),
        ("scheduler_options: 3", "scheduler_options is 3, expected a mapping"),
        ("[1, 2]", "expected a mapping of keys to values"),
        ("{", "is not YAML"),
    ],
)
def test_wrong_settings(tmp_path, text, message):
    file = tmp_path / "slurm.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_settings(file)
    assert str(caught.value).startswith(f"--slurm-config {file}: ")


def test_no_settings_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("01:00:00", 3600), ("2-00", 172800), ("1-02:03", 93780),
     ("1-00:00:01", 86401), ("UNLIMITED", None), ("0", None)],
)  # fmt: skip
def test_walltime(text, seconds):
    assert parse_walltime(text) == seconds


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch on this machine"), running("slurm"):
        pass


def test_silence_after_an_interruption():
    """From the interruption to the end of the block, no longer."""
    log = logging.getLogger("asyncio")
    record = log.makeRecord(log.name, logging.ERROR, "", 0, "never retrieved", (), None)
    with clusters._silence() as over:
        assert log.filter(record)
        over.set()
        assert not log.filter(record)
    assert log.filter(record)


def test_jobs_of_an_interrupted_run_are_cancelled_at_once(monkeypatch, tmp_path):
    """All by one command that outlives the program: SLURM may take longer than it may."""
    said = tmp_path / "said.txt"
    scripts = {
        "sbatch": f'echo $$ >> {tmp_path}/jobs; echo "Submitted batch job $$"',
        "scancel": f'echo "$@" >> {said}',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clusters, "_wait_for_workers", interrupted)
    with pytest.raises(KeyboardInterrupt), running("slurm", workers=2):
        pass
    jobs = set((tmp_path / "jobs").read_text().split())
    assert len(jobs) == 2
    end = time.monotonic() + 60
    while not (said.exists() and jobs in [set(line.split()) for line in said.open()]):
        assert time.monotonic() < end
        time.sleep(0.05)


# -- the registry --------------------------------------------------------------------------------


def test_backends_accept_what_there_is():
    known = {field.name for field in dataclasses.fields(SchedulerOptions)} - {"scheduler"}
    assert {*names(), "address"} == set(BACKENDS)
    assert all(backend.accepts <= known for backend in BACKENDS.values())
    assert set().union(*(backend.accepts for backend in BACKENDS.values())) == known


def test_a_backend_of_ones_own(made, reference, monkeypatch, tmp_path):
    """One entry in the table: it is known by name, gets its options, and computes the same."""
    asked = []

    @contextlib.contextmanager
    def start(options):
        asked.append(options)
        with dask.config.set(scheduler="synchronous"):
            yield

    mine = Backend("--scheduler mine", frozenset({"threads"}), start)
    monkeypatch.setitem(BACKENDS, "mine", mine)
    make_both(configuration(made, tmp_path), "mine", threads=3)
    assert (asked[0].scheduler, asked[0].threads) == ("mine", 3)
    check_same(tmp_path, reference)
    with (
        pytest.raises(InputError, match="--workers means nothing to --scheduler mine"),
        running("mine", workers=2),
    ):
        pass
    with pytest.raises(InputError, match="expected one of .*, mine or an address"), running("mime"):
        pass
