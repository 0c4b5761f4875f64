"""What a batch knows of memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from roman_dask_l2.batch.plan import Options, make_plan, needed
from roman_dask_l2.products import level2, noise_layers
from roman_dask_l2.system import memory

MB = 1 << 20


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


def test_no_more_than_is_free():
    assert 0 < memory.available() <= psutil.virtual_memory().total


def test_a_slurm_job(monkeypatch):
    used = psutil.Process().memory_info().rss
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(used // MB + 300))
    assert 200 * MB < memory.available() <= 302 * MB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    free = memory.available()
    monkeypatch.setenv("SLURM_MEM_PER_CPU", str(used // MB // 2 + 100))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert memory.available() <= 202 * MB < free


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(kind):
    """In a process of its own: they cannot be taken back."""
    code = f"""
import psutil, resource
from roman_dask_l2.system import memory
used = psutil.Process().memory_info()
used = used.vms if {kind!r} == "RLIMIT_AS" else used.rss
resource.setrlimit(resource.{kind}, (used + (500 << 20),) * 2)
print(memory.available() >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 300 < int(done.stdout) <= 500, done.stderr


def test_control_groups(tmp_path, monkeypatch):
    """The smallest rest of all groups above the process counts."""
    files = {
        "cgroup": "0::/a/b\n",
        "a/memory.max": f"{900 * MB}",
        "a/memory.current": f"{200 * MB}",
    }
    files |= {"a/b/memory.max": "max", "a/b/memory.current": "1"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def moved(path):
        place = {"/proc/self/cgroup": tmp_path / "cgroup", "/sys/fs/cgroup": tmp_path}
        return place.get(str(path), Path(path))

    monkeypatch.setattr(memory, "Path", moved)
    assert memory._control_groups() == [700 * MB]
    (tmp_path / "cgroup").write_text("5:cpu:/x\n4:memory:/\n")
    assert memory._control_groups() == []


def test_the_peak_is_that_of_one_exposure():
    memory.reset_peak()
    before = memory.peak()
    array = np.ones(200 * MB // 8)
    assert memory.peak() - before > 150 * MB
    del array
    memory.reset_peak()
    assert memory.peak() - before < 100 * MB


def test_what_an_exposure_takes(campaign):
    """A projection at first, then what the manifest knows."""
    plan = make_plan(campaign.file, Options())
    projected = needed(plan, here=True)
    line = {"identity": "a", "attempt": "x", "status": "done", "products": {"l2": 1.0}}
    text = [line | {"peak_memory": n} for n in (5, 123456789, 7)]
    text += [line | {"status": "failed", "peak_memory": 10**12}]
    text += [line | {"products": {}, "note": "found finished"}]
    campaign.manifest.write_text("".join(json.dumps(entry) + "\n" for entry in text))
    assert needed(make_plan(campaign.file, Options()), here=True) == 123456789
    assert 200 * MB < projected < 900 * MB


def test_a_batch_warns(campaign, monkeypatch, capsys):
    from roman_dask_l2.cli.app import main

    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert main(["batch", str(campaign.file), "--quiet", "--limit", "1"]) == 0
    assert "GB of memory, 0.0 GB are available" in capsys.readouterr().err


@pytest.mark.slow
def test_exposures_in_flight_are_capped(campaign, undisturbed, monkeypatch):
    """Two workers, memory for one exposure."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "400")
    done = campaign.run("--scheduler", "local-cluster", "--workers", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "exposures at a time: 1; each takes about" in done.stderr
    assert [line["status"] for line in campaign.lines()] == ["done"] * 4
    campaign.check(undisturbed)


# -- --memory, and what a worker may have --------------------------------------------------------


def test_a_batch_that_cannot_stay_under_it_does_not_begin(campaign, capsys):
    from roman_dask_l2.cli.app import main

    for given in ("1MB", "much"):
        assert main(["batch", str(campaign.file), "--quiet", "--memory", given]) == 2
        assert f"--memory{': 1 MB is too little, sim_L1' if given == '1MB' else ' much:'}" in (
            capsys.readouterr().err
        )
    assert not campaign.manifest.exists()
    assert campaign.outputs() == []


def done_with(monkeypatch, campaign, **changes):
    """The record of one exposure, and the ``memory`` of its calibration and noise layers."""
    from roman_dask_l2.batch.work import run_exposure

    seen = []

    def noted(made, job, options, **how):
        seen.append(how.get("memory", options.memory))
        return made(job, options, **how)

    for module, name in ((level2, "calibrate"), (noise_layers, "generate_noise")):
        monkeypatch.setattr(module, name, partial(noted, getattr(module, name)))
    options = {k: v for k, v in changes.items() if k == "memory"}
    work = make_plan(campaign.file, Options(**options)).todo[0].work
    return run_exposure(dataclasses.replace(work, **changes)), seen


def test_memory_reaches_the_work(campaign, monkeypatch):
    record, seen = done_with(monkeypatch, campaign, memory="900MB")
    assert record["status"] == "done"
    assert seen == ["900MB", "900MB"]


def test_a_small_worker_gets_smaller_work(campaign, monkeypatch):
    """And one in which the exposure fits as it is, the usual tiles."""
    record, seen = done_with(monkeypatch, campaign, limit=265e6, tile="64x256", threads=4)
    assert (record["status"], seen) == ("done", [265e6, 265e6])
    campaign.out(1, 1).unlink()
    record, seen = done_with(monkeypatch, campaign, limit=9e9, tile="64")
    assert (record["status"], seen) == ("done", [None, None])


def test_workers_that_are_too_small(campaign):
    """Each exposure fails with numbers, and no worker dies of it."""
    cluster = ("--scheduler", "local-cluster", "--workers", "1", "--threads", "2")
    done = campaign.run(*cluster, "--memory", "260MB", "--limit", "1")
    assert done.returncode == 4, done.stderr
    assert "234 MB is too little, sim_L1_F158_1_1.asdf" in done.stdout
    assert [line["status"] for line in campaign.lines()] == ["failed"]


def test_workers_without_a_limit_share_their_machine(monkeypatch):
    """As Dask itself would divide it between them."""
    import distributed

    from roman_dask_l2.batch import cluster, work

    hosts = ["tcp://10.0.0.1:7", "tcp://10.0.0.1:8", "tcp://10.0.0.2:7", "tcp://[::1]:7"]
    assert cluster._beside(hosts) == 2
    assert cluster._beside([]) == 1

    def limit(own):
        worker = types.SimpleNamespace(
            lifetime=None, state=types.SimpleNamespace(nthreads=3),
            memory_manager=types.SimpleNamespace(memory_limit=own),
        )  # fmt: skip
        monkeypatch.setattr(distributed, "get_worker", lambda: worker)
        return work.on_worker(work.Work("a", {}, "c", "m", beside=4)).limit

    monkeypatch.setattr(work, "run_exposure", lambda found: found)
    assert limit(10**9) == pytest.approx(0.9e9)
    assert limit(None) == pytest.approx(0.9 * distributed.system.MEMORY_LIMIT / 4)
