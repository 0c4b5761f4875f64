"""Batches on a Dask cluster: each exposure is a task of a worker. What kills for real has the
marker `faults`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from roman_dask_l2.errors import ClusterError
from roman_dask_l2.io.atomic import parse_part

ROOT = Path(__file__).parents[2]

CLUSTER = ("--scheduler", "local-cluster", "--workers", "2", "--threads", "1")
FIRST = "filter=F158,obs=1,sca=1"


def begun(case, identity):
    """Processes that have begun an exposure, in turn."""
    at_work = case.at_work()  # first: one that ends in between is in the manifest
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in case.lines() if line["status"] != "failed"] + at_work
        pids = {line["attempt"]: line["pid"] for line in lines if line["identity"] == identity}
        return list(pids.values())
    return []


def wait_for(condition, process, limit=120):
    end = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def nothing_stray(case, limit=60):
    """Workers that were told to stop may still be on their way out."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        hidden = [p for p in case.outputs() if p.name.startswith(".")]
        if not hidden and not list((case.folder / "temp").iterdir()):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_the_same_bits(campaign, undisturbed, tools):
    done = campaign.run(*CLUSTER)
    assert done.returncode == 0, done.stderr
    campaign.check(undisturbed)
    assert campaign.statuses() == {i: ["done"] for i in tools.IDENTITIES}
    assert len({line["pid"] for line in campaign.lines()}) == 2
    assert done.stdout.splitlines()[-1].startswith("4 done, 0 finished before, 0 failed; ")
    assert "dashboard: http" in done.stderr


@pytest.mark.slow
def test_one_bad_exposure_does_not_stop_the_others(campaign):
    """One at a time, though there are two workers."""
    os.truncate(campaign.l1(1, 1), 3000)
    campaign.edit(NOISE=None)
    done = campaign.run(*CLUSTER, "--in-flight", "1", "--only", "sca=1", "--only", "obs=1")
    assert done.returncode == 4, done.stderr
    assert "sim_L1_F158_1_1.asdf: truncated" in done.stdout
    assert "2 done, 0 finished before, 1 failed" in done.stdout
    states = [line["status"] for line in campaign.lines()]
    assert sorted(states) == ["done", "done", "failed"]


def test_workers_with_another_source_are_refused(monkeypatch):
    """Checkouts of one version may differ."""
    from roman_dask_l2.engine import watch
    from roman_dask_l2.system import versions

    other = versions.versions() | {versions.SOURCE: "other"}
    monkeypatch.setattr(watch, "_ask", lambda *_: {"tcp://w:1": other})
    with pytest.raises(ClusterError, match="worker tcp://w:1 has roman-dask-l2 source other, here"):
        watch.compare_versions(None)


@pytest.mark.faults
@pytest.mark.parametrize("moment", ["tiles", "noise"])
def test_a_worker_is_killed(campaign, undisturbed, moment):
    """Its exposure is done again by another one."""
    with campaign.started(*CLUSTER) as process:
        if moment == "tiles":
            wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        else:
            wait_for(lambda: campaign.out(1, 1).exists() and campaign.cubes(), process)
        os.kill(begun(campaign, FIRST)[-1], signal.SIGKILL)
        out, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    assert out.splitlines()[-1].startswith("4 done, ")
    campaign.check(undisturbed)
    assert campaign.statuses()[FIRST][-2:] == ["interrupted", "done"]


def kill_while_it_writes(case, process, pattern):
    """Kill a worker when the tree stands in front of the arrays of its unfinished file; which
    exposure that is of does not matter: the moment is short."""

    def caught(part):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            return file.read(5) == b"#ASDF" and part.exists()
        return False

    def try_it():
        for part in case.folder.glob(pattern):
            if caught(part):
                worker = psutil.Process(parse_part(part.name).pid)
                worker.suspend()
                if caught(part):  # still: it stands still now
                    worker.kill()
                    return True
                worker.resume()
        return False

    end = time.monotonic() + 120
    while not try_it():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.0005)


@pytest.mark.faults
@pytest.mark.parametrize("file", ["", "_noise"], ids=["the L2 file", "the noise file"])
def test_a_worker_is_killed_while_it_writes(campaign, undisturbed, tools, file):
    """Its exposure is done again, but for a calibration that was finished."""
    with campaign.started(*CLUSTER) as process:
        kill_while_it_writes(campaign, process, f"l2_?/.sim_L2_F158_?_?{file}.*.part.asdf")
        out, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    assert out.splitlines()[-1].startswith("4 done, ")
    campaign.check(undisturbed)
    states = sorted(map(tuple, campaign.statuses().values()), key=len)
    assert states == [("done",)] * 3 + [("interrupted", "done")]


@pytest.mark.faults
def test_an_exposure_that_kills_its_workers(campaign, undisturbed, tools):
    """As one does that takes too much memory: after four it has failed, the others go on."""
    stop = threading.Event()

    def kill_them():
        killed = 0
        while not stop.is_set():
            pids = begun(campaign, FIRST)
            if len(pids) > killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[-1], signal.SIGKILL)
                killed = len(pids)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_them)
    killer.start()
    try:
        done = campaign.run(*CLUSTER, timeout=150)
    finally:
        stop.set()
        killer.join()
    assert done.returncode == 4, done.stderr
    assert "its worker died 4 times" in done.stdout
    assert f"{FIRST}  failed" in done.stdout
    states = campaign.statuses()
    assert states[FIRST][-2:] == ["interrupted", "failed"]
    assert {states[i][-1] for i in tools.IDENTITIES[1:]} == {"done"}
    assert nothing_stray(campaign)
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


def statuses_of(out: str) -> dict[str, str]:
    """Exposures of a batch's last table."""
    return {line.split()[0]: line.split()[1] for line in out.splitlines()[1:-1]}


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_the_client_is_interrupted(campaign, undisturbed, number):
    """Ctrl-C reaches all processes of a terminal, SIGTERM the program alone."""
    with campaign.started(*CLUSTER, start_new_session=True) as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        children = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert error.splitlines()[-1].endswith("error: interrupted; no unfinished file is left behind")
    assert "distributed" not in error
    assert "interrupted" in (said := statuses_of(out)).values()
    assert said == {name: states[-1] for name, states in campaign.statuses().items()}
    assert nothing_stray(campaign, limit=0.5)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert campaign.at_work() == []
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


@pytest.mark.faults
def test_the_client_is_killed(campaign, undisturbed):
    """Its workers end by themselves; the next batch waits for what they still do."""
    with campaign.started(*CLUSTER) as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = campaign.run(*CLUSTER)
    assert done.returncode == 0, done.stderr
    campaign.check(undisturbed)
    assert nothing_stray(campaign)


class Outside:
    """A Dask cluster that others have started: its file, scheduler and workers."""

    def __init__(self, folder):
        self.file = folder / "scheduler.json"
        self.processes = [self._start("scheduler", "--port", "0")]

    def _start(self, what, *arguments):
        where = ["--scheduler-file", self.file, "--host", "127.0.0.1"]
        where += ["--dashboard-address", "127.0.0.1:0"]
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *where, *arguments]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def add(self, *options):
        """Start a worker."""
        wait_for(self.file.exists, self.processes[0])
        worker = self._start("worker", "--nthreads", "1", *options)
        self.processes.append(worker)
        return worker

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    """A scheduler, no workers yet."""
    made = Outside(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def outside(cluster):
    """A Dask cluster that others have started: its file, scheduler and two workers."""
    for _ in range(2):
        cluster.add("--no-nanny")
    return cluster.file, cluster.processes


@pytest.mark.faults
def test_workers_leave_between_exposures(campaign, undisturbed, tools, cluster):
    """Near the end of its lifetime a worker begins no exposure: none is cut off."""
    line = {"identity": "another", "attempt": "x", "status": "done", "products": {"l2": 1.0}}
    line |= {"seconds": 100.0, "peak_memory": 3e8, "cpu_seconds": 1.0}  # more than a lifetime
    campaign.manifest.write_text(json.dumps(line) + "\n")
    first = cluster.add("--lifetime", "40s")
    half = time.monotonic() + 21
    options = ("--scheduler-file", cluster.file, "--insecure", "--tile", "64", "--only", "sca=1")
    with campaign.started(*options) as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        # It stands still in its first exposure until its lifetime is half over.
        worker = psutil.Process(begun(campaign, FIRST)[-1])
        worker.suspend()
        time.sleep(max(half - time.monotonic(), 0))
        worker.resume()
        wait_for(lambda: first.poll() is not None, process)
        tried = [x["identity"] for x in campaign.lines()[1:]]
        cluster.add()
        _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert (first.returncode, tried) == (0, [FIRST])
    assert "has no time left for an exposure and leaves" in error
    states = campaign.statuses()
    assert [states[i] for i in tools.IDENTITIES[:2]] == [["done"]] * 2
    assert campaign.pixels().items() <= undisturbed.items()


@pytest.mark.parametrize(
    ("lifetime", "age", "expected", "soon"),
    [(None, 1e9, 1e9, False), (100, 10, 0, False), (100, 69, 30, False), (100, 71, 30, True),
     (100, 40, 500, False), (100, 60, 500, True)],
)  # fmt: skip
def test_how_soon_a_lifetime_ends(monkeypatch, lifetime, age, expected, soon):
    """Exposures that fit into no lifetime are begun in its first half, and not put off for ever."""
    from roman_dask_l2.batch import work

    monkeypatch.setattr(work, "age", lambda: age)
    assert work._ends_soon(lifetime, expected) is soon


def test_what_cannot_be_cleaned_up_is_named(campaign, capsys, monkeypatch):
    """Where a worker goes on with an exposure when the client has been interrupted."""
    from roman_dask_l2.batch import run
    from roman_dask_l2.batch.locks import lock_path, release, take
    from roman_dask_l2.cli.app import main

    locks = [lock_path(campaign.out(1, 1))]

    def interrupted(outcome, *args, **how):
        outcome.in_flight = {item.identity: item for item in outcome.plan.todo[:2]}
        for lock in locks:
            take(lock, "worker")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupted)
    try:
        assert main(["batch", str(campaign.file), "--quiet"]) == 1
    finally:
        release(locks.pop())
    said = capsys.readouterr().err
    where = f"(process {os.getpid()} on {platform.node()} works on it)"
    assert f"may stay until the next batch, of {FIRST} {where}" in said
    assert "obs=2" not in said
    assert main(["batch", str(campaign.file), "--quiet"]) == 1
    assert "interrupted; no unfinished file is left behind" in capsys.readouterr().err


def test_what_is_done_by_the_time_of_the_last_word_is_called_done(campaign, capsys, monkeypatch):
    """A worker may come to the end of its exposure after the client has been interrupted."""
    from roman_dask_l2.batch import run
    from roman_dask_l2.batch.work import new_line, write_line
    from roman_dask_l2.cli.app import main

    def interrupted(outcome, *args, **how):
        first, second = outcome.plan.todo[:2]
        outcome.in_flight = {item.identity: item for item in (first, second)}
        line = new_line(first.work, "done") | {"seconds": 2.0, "cpu_seconds": 1, "peak_memory": 1e9}
        write_line(campaign.manifest, line)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupted)
    assert main(["batch", str(campaign.file), "--quiet"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[1:3]] == [
        [FIRST, "done"],
        [out[2].split()[0], "interrupted"],
    ]
    assert out[-1].startswith("1 done, 0 finished before, 0 failed, 1 interrupted, 2 left")


@pytest.mark.faults
def test_workers_of_others_go_on_when_the_client_is_interrupted(campaign, undisturbed, outside):
    """One that stands still in the middle of an exposure: it is named, and waited for no longer
    than for others."""
    file, processes = outside
    with campaign.started(
        "--scheduler-file", file, "--insecure", "--only", "obs=1,sca=1"
    ) as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        worker = psutil.Process(begun(campaign, FIRST)[-1])
        worker.suspend()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "no unfinished file is left behind" not in error
    assert f"interrupted; unfinished files may stay until the next batch, of {FIRST}" in error
    assert f"(process {worker.pid} on " in error
    worker.kill()
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


@pytest.mark.faults
def test_the_scheduler_is_killed(campaign, undisturbed, outside):
    """Status 3, with what is done so far; what its workers were at, the next batch cleans up."""
    file, processes = outside
    with campaign.started("--scheduler-file", str(file), "--insecure", "--wait", "20") as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        processes[0].kill()
        out, error = process.communicate(timeout=120)
    assert process.returncode == 3, error
    assert "the Dask scheduler is gone" in error
    assert "Futures: [" not in error  # as many as exposures were at work
    assert "Traceback" not in error, error
    # Its workers end by themselves, and may come to the end of an exposure before that.
    said = statuses_of(out)
    done = {name for name, states in campaign.statuses().items() if states == ["done"]}
    assert set(said.values()) <= {"done", "interrupted"}
    assert {name for name, is_ in said.items() if is_ == "done"} <= done
    for worker in processes[1:]:
        worker.kill()
        worker.wait()
    again = campaign.run()
    assert again.returncode == 0, again.stderr
    campaign.check(undisturbed)
    assert nothing_stray(campaign)


@pytest.mark.faults
def test_all_workers_are_killed(campaign, undisturbed, outside):
    """And none comes back: status 3 after the limit, no hang."""
    file, processes = outside
    with campaign.started("--scheduler-file", str(file), "--insecure", "--wait", "20") as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        for worker in processes[1:]:
            worker.kill()
        out, error = process.communicate(timeout=120)
    assert process.returncode == 3, error
    assert "all workers are gone, none came back within 20 s" in error
    assert "Traceback" not in error
    again = campaign.run()
    assert again.returncode == 0, again.stderr
    campaign.check(undisturbed)
    assert nothing_stray(campaign)
