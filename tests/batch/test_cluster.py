"""Batches on a Dask cluster: each exposure is a task of a worker."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

CLUSTER = ("--scheduler", "local-cluster", "--workers", "2", "--threads", "1")
FIRST = "filter=F158,obs=1,sca=1"


def begun(case, identity):
    """Processes that have begun an exposure, in turn."""
    with contextlib.suppress(FileNotFoundError):
        return [
            line["pid"]
            for line in case.lines()
            if line["identity"] == identity and line["status"] == "running"
        ]
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


def test_the_same_bits(campaign, undisturbed, tools):
    done = campaign.run(*CLUSTER)
    assert done.returncode == 0, done.stderr
    campaign.check(undisturbed)
    assert campaign.statuses() == {i: ["running", "done"] for i in tools.IDENTITIES}
    assert len({line["pid"] for line in campaign.lines()}) == 2
    assert done.stdout.splitlines()[-1].startswith("4 done, 0 finished before, 0 failed; ")
    assert "dashboard: http" in done.stderr


def test_in_flight(campaign, undisturbed):
    """One at a time, though there are two workers."""
    done = campaign.run(*CLUSTER, "--in-flight", "1")
    assert done.returncode == 0, done.stderr
    assert [line["status"] for line in campaign.lines()] == ["running", "done"] * 4
    campaign.check(undisturbed)


def test_one_bad_exposure_does_not_stop_the_others(campaign):
    os.truncate(campaign.l1(2, 1), 3000)
    done = campaign.run(*CLUSTER)
    assert done.returncode == 4, done.stderr
    assert "sim_L1_F158_2_1.asdf: truncated" in done.stdout
    assert "3 done, 0 finished before, 1 failed" in done.stdout


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
    assert campaign.statuses()[FIRST][-3:] == ["interrupted", "running", "done"]


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
        done = campaign.run(*CLUSTER, timeout=300)
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


def test_the_client_is_interrupted(campaign, undisturbed):
    with campaign.started(*CLUSTER) as process:
        wait_for(lambda: campaign.parts(campaign.out(1, 1)), process)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "interrupted" in out
    assert nothing_stray(campaign)
    assert "running" not in {states[-1] for states in campaign.statuses().values()}
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


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
