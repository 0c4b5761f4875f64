"""Processes of a Dask cluster are killed for real. Either the run ends with the same bits as an
undisturbed one, or it fails with a clear error; no half file and no TEMP store stay behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import psutil
import pytest
from configuring import elsewhere

from roman_dask_l2.engine.schedulers import running
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

spec = importlib.util.spec_from_file_location("compare", ROOT / "validation/slurm/compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

TILE = 64
LAYERS = ["RS2", "Rz1C", "PbS2", "RP", "O"]
LIMIT = 120
"""Seconds after which a run that should have ended is taken for hanging."""


def configuration(made, folder, layers=LAYERS):
    """The configuration of a simulated exposure, its outputs in `folder`."""
    return elsewhere(made, folder, layers, FITSOUT=False)


def check(folder, *finished, reference=None):
    """Nothing but finished files is there, and those are as they should be."""
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "temp", *finished}
    assert list((folder / "temp").iterdir()) == []
    for name in finished:
        assert compare.differences(reference / name, folder / name) == []


@pytest.fixture(scope="module")
def made(simulated):
    return simulated(seed=4)


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    config = configuration(made, folder)
    calibrate(config)
    generate_noise(config)
    return folder


# -- a worker dies, its nanny starts another -----------------------------------------------------


def die_once(place, marker, calls):
    """On a worker: the function at `place` kills its process at its n-th call, once in all."""
    import importlib

    module, name = place.rsplit(".", 1)
    module = importlib.import_module(module)
    function, count = getattr(module, name), [0]

    def deadly(*arguments, **options):
        count[0] += 1
        if count[0] >= calls:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                if name == "pwrite":  # half of it
                    fd, data, offset = arguments
                    function(fd, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(module, name, deadly)


@pytest.fixture(scope="module")
def cluster():
    with running("local-cluster", workers=2, threads=1) as client:
        yield client


@pytest.fixture
def deadly(cluster, tmp_path):
    """``deadly(place, calls)``: one worker will die there; checks at the end that it did."""
    marker = tmp_path / "died"

    def set_up(place, calls):
        cluster.wait_for_workers(2, timeout=60)
        cluster.run(die_once, place, str(marker), calls)

    yield set_up
    assert marker.exists()


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        pytest.param("roman_dask_l2.engine.kernels.reduce_strip", 1, id="in a reduction"),
        pytest.param("roman_dask_l2.engine.tiles.run_tile", 4, id="in the tile stage"),
        pytest.param("os.pwrite", 1, id="while it writes its first tile"),
        pytest.param("os.pwrite", 40, id="while it writes another"),
    ],
)
def test_worker_killed_in_a_calibration(place, calls, cluster, deadly, made, reference, tmp_path):
    config = configuration(made, tmp_path / "run")
    deadly(place, calls)
    calibrate(config, scheduler=cluster, tile=TILE)
    check(tmp_path / "run", "l2.asdf", reference=reference)


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        pytest.param(
            "roman_dask_l2.products.noise_commands.read_noise.PlaneNoise",
            2,
            id="making a resultant",
        ),
        pytest.param("roman_dask_l2.engine.tiles.run_tiles", 2, id="in a layer's tiles"),
        pytest.param("roman_dask_l2.products.layer_sum.finish_layer", 1, id="finishing a layer"),
    ],
)
def test_worker_killed_in_the_noise(place, calls, cluster, deadly, made, reference, tmp_path):
    config = configuration(made, tmp_path / "run")
    calibrate(config)
    deadly(place, calls)
    generate_noise(config, scheduler=cluster, tile=TILE)
    check(tmp_path / "run", "l2.asdf", "noise.asdf", reference=reference)


def holder(dask_scheduler):
    """Process address of the worker that holds the result of a finished layer, None so far."""
    for key, task in dask_scheduler.tasks.items():
        if "finish-layer" in str(key) and task.who_has:
            return next(iter(task.who_has)).address
    return None


def test_worker_killed_that_holds_the_result_of_a_layer(cluster, made, reference, tmp_path):
    """What the layer was made from is gone from TEMP when its result is lost."""
    config = configuration(made, tmp_path)
    calibrate(config)
    cluster.wait_for_workers(2, timeout=60)
    killed = []

    def kill():
        while not killed and not over.is_set():
            if address := cluster.run_on_scheduler(holder):
                (pid,) = cluster.run(os.getpid, workers=[address]).values()
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    over = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        generate_noise(config, scheduler=cluster, tile=TILE)
    finally:
        over.set()
        killer.join()
    assert killed
    check(tmp_path, "l2.asdf", "noise.asdf", reference=reference)


# -- processes of a run that was started from the command line -----------------------------------


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def wait_until(condition, *processes):
    end = time.monotonic() + LIMIT
    while not condition():
        assert all(p.poll() is None for p in processes), processes[0].communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def in_the_tiles(folder):
    """Some tiles of the calibration are in the file, and not all."""

    def condition():
        parts = list(folder.glob(".l2.*.part.asdf"))
        with contextlib.suppress(OSError):
            return parts and 0 < parts[0].stat().st_blocks * 512 < parts[0].stat().st_size
        return False

    return condition


def in_the_noise(folder):
    """In the middle of the layers."""
    return lambda: list(folder.glob("temp/*/cube1*/c.*"))


class Outside:
    """A Dask cluster that others have started: scheduler, its file, workers without nannies."""

    def __init__(self, folder):
        self.file, self.workers = folder / "scheduler.json", []
        self.scheduler = self._start("scheduler", "--port", "0")
        wait_until(self.file.exists)
        self.add(2)

    def _start(self, what, *arguments, **variables):
        where = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        where += ["--scheduler-file", str(self.file)]
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *where, *arguments]
        environment = {**os.environ, **variables}
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment)

    def add(self, number, **variables):
        for _ in range(number):
            worker = self._start("worker", "--no-nanny", "--nthreads", "1", **variables)
            self.workers.append(worker)


@pytest.fixture
def outside(tmp_path):
    cluster = Outside(tmp_path)
    yield cluster
    for process in (cluster.scheduler, *cluster.workers):
        process.kill()
        process.wait()


def long_noise(made, folder):
    """A configuration whose layers take long enough to be hit."""
    return configuration(made, folder, layers=[f"RC{i}" for i in range(16)])


@pytest.mark.parametrize("stage", [in_the_tiles, in_the_noise])
@pytest.mark.parametrize("victim", ["scheduler", "workers"])
def test_the_cluster_is_killed(victim, stage, outside, made, reference, tmp_path):
    """The scheduler, or all workers and none comes back: status 3 after the limit, no hang."""
    folder = tmp_path / "run"
    config = long_noise(made, folder)
    many_tiles = ["--tile", 32] if stage is in_the_tiles else []
    run = start(
        "roman_dask_l2",
        config,
        "--scheduler-file",
        outside.file,
        "--insecure",
        "--wait",
        20,
        *many_tiles,
    )
    wait_until(stage(folder), run)
    for process in [outside.scheduler] if victim == "scheduler" else outside.workers:
        process.kill()
    _, error = run.communicate(timeout=LIMIT)
    assert run.returncode == 3, error
    message = {
        "scheduler": "the Dask scheduler is gone",
        "workers": "all workers are gone, none came back within 20 s",
    }[victim]
    assert message in error.splitlines()[-1]
    done = {"l2.asdf"} if stage is in_the_noise else set()
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "temp", *done}
    assert list((folder / "temp").iterdir()) == []
    run_again(made, folder, reference)


def run_again(made, folder, reference):
    """Without a cluster: the same bits as a run that nothing has disturbed."""
    again = start("roman_dask_l2", configuration(made, folder), "--tile", TILE)
    _, error = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, error
    check(folder, "l2.asdf", "noise.asdf", reference=reference)


DIARY = """
from pathlib import Path

def dask_setup(worker):
    execute = worker.execute

    def noted(key, **options):
        with open({diary!r}, "a") as file:
            print(key, file=file)
        return execute(key, **options)

    worker.execute = noted
"""
"""A preload: a worker writes down what it begins."""

OTHER_NUMPY = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "0.1" if name == "numpy" else version(name)
"""


def other_numpy(folder):
    """Variables of a worker with another numpy."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(OTHER_NUMPY)
    return {"PYTHONPATH": str(site)}


def test_a_worker_with_another_numpy(outside, made, tmp_path):
    """Its bits may differ: status 3."""
    outside.add(1, **other_numpy(tmp_path))
    outside.workers[0].kill()
    outside.workers[1].kill()
    time.sleep(5)
    folder = tmp_path / "run"
    run = start(
        "roman_dask_l2", long_noise(made, folder), "--scheduler-file", outside.file, "--insecure"
    )
    _, error = run.communicate(timeout=LIMIT)
    assert run.returncode == 3, error
    assert "has numpy 0.1, here it is" in error.splitlines()[-1]
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "temp"}
    assert list((folder / "temp").iterdir()) == []


def test_a_late_worker_with_another_numpy(outside, tmp_path, caplog):
    """It leaves before it has begun a single task, though many wait; one that comes with it and has
    the right numpy is given some; the run goes on."""
    with running(scheduler_file=outside.file, insecure=True) as client:
        tasks = client.map(time.sleep, [0.2] * 4000, pure=False)
        diaries = {}
        for name, variables in {"other": other_numpy(tmp_path), "same": {}}.items():
            diaries[name] = tmp_path / f"{name}.txt"
            preload = tmp_path / f"{name}.py"
            preload.write_text(DIARY.format(diary=str(diaries[name])))
            outside.add(1, DASK_DISTRIBUTED__WORKER__PRELOAD=str(preload), **variables)
        late = outside.workers[2]
        wait_until(lambda: late.poll() is not None and diaries["same"].exists())
        assert not diaries["other"].exists()
        assert client.submit(os.getpid, priority=1).result(timeout=60)
        client.cancel(tasks)
    (said,) = [r.getMessage() for r in caplog.records if "numpy 0.1" in r.getMessage()]
    assert said.endswith(": it gets no task")


def test_workers_may_come_back(outside, made, reference, tmp_path):
    """All workers are killed, others come within the limit."""
    folder = tmp_path / "run"
    config = configuration(made, folder)
    run = start(
        "roman_dask_l2", config, "--scheduler-file", outside.file, "--insecure", "--tile", TILE
    )
    wait_until(in_the_noise(folder), run)
    for process in outside.workers:
        process.kill()
    outside.add(2)
    _, error = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, error
    check(folder, "l2.asdf", "noise.asdf", reference=reference)


@pytest.mark.parametrize("stage", [in_the_tiles, in_the_noise])
def test_the_client_is_killed(stage, made, reference, tmp_path):
    """Its workers end by themselves, no file has a final name; run again, it makes the same and
    removes what was left."""
    config = long_noise(made, tmp_path)
    run = start("roman_dask_l2", config, "--scheduler", "local-cluster", "--workers", 2)
    wait_until(stage(tmp_path), run)
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    run.kill()
    run.communicate()
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not (tmp_path / "noise.asdf").exists()
    if stage is in_the_tiles:
        assert not (tmp_path / "l2.asdf").exists()
    config = configuration(made, tmp_path)
    again = start("roman_dask_l2", config, "--scheduler", "local-cluster", "--workers", 2)
    _, error = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, error
    assert "left by a process that was killed" in error
    check(tmp_path, "l2.asdf", "noise.asdf", reference=reference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(number, made, reference, tmp_path):
    """Ctrl-C reaches all processes of a terminal, SIGTERM the program alone: nothing is left."""
    config = long_noise(made, tmp_path)
    run = start("roman_dask_l2", config, "--scheduler", "local-cluster", "--workers", 2)
    wait_until(in_the_noise(tmp_path), run)
    children = psutil.Process(run.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(run.pid, number)
    else:
        os.kill(run.pid, number)
    _, error = run.communicate(timeout=LIMIT)
    assert run.returncode == 1, error
    assert "interrupted" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "temp", "l2.asdf"}
    assert list((tmp_path / "temp").iterdir()) == []
    run_again(made, tmp_path, reference)
