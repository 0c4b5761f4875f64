"""Locks: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from roman_dask_l2.batch import locks
from roman_dask_l2.batch.locks import holder, lock_path, look, read_owner, release, take
from roman_dask_l2.errors import InputError
from roman_dask_l2.system.processes import process_lives


@pytest.fixture
def lock(tmp_path):
    path = lock_path(tmp_path / "out.asdf")
    yield path
    release(path)


def test_a_lock_is_held_until_it_is_released(lock):
    assert holder(lock) is None
    assert take(lock, "one") == (True, None)
    taken, other = take(lock, "two")
    assert not taken
    assert other.token == "one"
    assert other.pid == os.getpid()
    assert holder(lock).token == "one"
    release(lock)
    assert not lock.exists()
    assert take(lock, "two") == (True, None)


def test_no_lock_without_a_directory(tmp_path):
    with pytest.raises(InputError, match="OUT: the directory .*/no does not exist"):
        take(tmp_path / "no" / ".x.lock", "t")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="OUT: the directory .*/file is not writable"):
        take(tmp_path / "file" / ".x.lock", "t")


HOLD = """
import sys, time
from pathlib import Path
from roman_dask_l2.batch.locks import take
print(take(Path(sys.argv[1]), "child")[0], flush=True)
time.sleep(600)
"""


@pytest.fixture
def child(lock):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_killed_holder(lock, child):
    assert take(lock, "mine")[0] is False
    child.send_signal(signal.SIGSTOP)  # it does not have to move to hold it
    assert take(lock, "mine")[0] is False
    child.kill()
    child.wait()
    assert holder(lock) is None
    taken, dead = take(lock, "mine")
    assert taken
    assert (dead.token, dead.pid) == ("child", child.pid)


def until(condition):
    """Wait, however long a busy machine takes."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_zombie_is_dead(lock, child):
    child.kill()  # not waited for
    until(lambda: holder(lock) is None)


def test_a_process_number_used_again(lock, child):
    """Same number, other process: the time of birth tells."""
    owner = json.loads(lock.read_text())
    lock.write_text(json.dumps(owner | {"born": owner["born"] - 1000}))
    assert holder(lock) is None


SILENT = locks.DEAD_AFTER + locks.CLOCKS


def other_machine(lock, child, silent):
    owner = json.loads(lock.read_text())
    lock.write_text(json.dumps(owner | {"host": "elsewhere", "pid": 1}))
    before = time.time() - silent
    os.utime(lock, (before, before))


def test_another_machine_is_alive_while_its_heart_beats(lock, child):
    other_machine(lock, child, locks.DEAD_AFTER - 10)
    assert holder(lock).host == "elsewhere"
    assert take(lock, "mine")[0] is False


def test_another_machine_is_dead_when_it_is_silent(lock, child):
    other_machine(lock, child, SILENT + 10)
    taken, dead = take(lock, "mine")
    assert taken
    assert dead.host == "elsewhere"


def test_clocks_that_are_apart(lock, child):
    """Where a file has the time of the machine that touches it, a living process may look old."""
    other_machine(lock, child, locks.DEAD_AFTER + 10)
    assert holder(lock).host == "elsewhere"
    assert take(lock, "mine")[0] is False


@pytest.mark.parametrize("silent", [10, -100_000])
def test_a_lock_that_is_watched(lock, child, monkeypatch, silent):
    """Whatever its time is, even one to come: without a sign of life it is not held for ever."""
    other_machine(lock, child, silent)
    assert holder(lock).host == "elsewhere"
    monkeypatch.setattr(locks, "DEAD_AFTER", 0.1)
    monkeypatch.setattr(locks, "CLOCKS", 1000)
    time.sleep(0.15)
    other_machine(lock, child, silent - 1)  # a sign of life
    assert take(lock, "mine")[0] is False
    time.sleep(0.15)
    taken, dead = take(lock, "mine")
    assert taken
    assert dead.host == "elsewhere"


def test_another_namespace_is_another_machine(lock, child):
    """Process numbers of another container say nothing here."""
    owner = json.loads(lock.read_text())
    lock.write_text(json.dumps(owner | {"space": "other", "pid": 2**22 + 1}))
    assert holder(lock) is not None


ELSEWHERE = """
import sys, time
from pathlib import Path
from roman_dask_l2.batch import locks
locks.BEAT = 0.2
print(locks.take(Path(sys.argv[1]), "there")[0], flush=True)
time.sleep(600)
"""


def test_a_process_in_another_namespace(lock):
    """For real: it cannot be seen from here, its heart tells whether it is alive."""
    outside = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    command = [*outside, sys.executable, "-c", ELSEWHERE, str(lock)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if process.stdout.readline() != b"True\n":
        pytest.skip(f"needs namespaces: {process.communicate()[1].decode()}")
    try:
        assert read_owner(lock)[0].pid == 1  # there; here that is another process
        for _ in range(5):  # it does not stay silent
            os.utime(lock, (1, 1))
            until(lambda: lock.stat().st_mtime > 1)
            assert holder(lock).token == "there"
    finally:
        process.kill()
        process.communicate()
    assert holder(lock) is not None  # it could be busy
    os.utime(lock, (time.time() - SILENT - 1,) * 2)
    taken, dead = take(lock, "here")
    assert taken
    assert dead.token == "there"


def test_a_lock_that_is_being_written(lock):
    lock.write_text("")
    assert take(lock, "mine")[0] is False
    before = time.time() - SILENT - 1
    os.utime(lock, (before, before))
    assert take(lock, "mine")[0] is True


@pytest.mark.parametrize("silent", [SILENT - 1, SILENT + 1])
def test_a_silent_holder_elsewhere_is_alive_or_dead_but_not_stuck(lock, child, silent):
    other_machine(lock, child, silent)
    owner, stuck = look(lock)
    assert (owner is not None, stuck) == (silent < SILENT, False)


def test_a_silent_holder_elsewhere_dies_between_two_looks(lock, child, monkeypatch):
    """Then it is found dead, or alive: one look decides."""
    other_machine(lock, child, 1000)
    reads = []

    def counted(path, read=read_owner):
        reads.append(path)
        return read(path)

    monkeypatch.setattr(locks, "read_owner", counted)
    assert look(lock) == (None, False)
    assert len(reads) == 1


def test_a_stuck_holder_here(lock, child):
    child.send_signal(signal.SIGSTOP)
    before = time.time() - locks.DEAD_AFTER - 1
    os.utime(lock, (before, before))
    owner, stuck = look(lock)
    assert (owner.pid, stuck) == (child.pid, True)


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_lock_that_cannot_be_read(lock, monkeypatch, error):
    """Someone holds it, until it is silent for too long."""
    lock.write_text("{}")

    def broken(path, *arguments, **how):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(locks, "open", broken, raising=False)
    assert holder(lock).host == "?"
    assert take(lock, "mine")[0] is False
    os.utime(lock, (1, 1))
    assert holder(lock) is None
    monkeypatch.setattr(type(lock), "stat", broken)
    assert holder(lock).host == "?"


def test_a_dead_lock_that_cannot_be_removed(lock, monkeypatch):
    lock.write_text("")
    os.utime(lock, (1, 1))

    def refused(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(lock), "unlink", refused)
        with pytest.raises(InputError, match="left by a dead process, cannot be removed"):
            take(lock, "mine")


def test_own_lock_that_could_not_be_removed(lock):
    take(lock, "first")
    locks._held.clear()  # released, but the directory did not let it go
    taken, dead = take(lock, "second")
    assert taken
    assert dead.token == "first"


def test_the_heart_beats(lock, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "_thread", None)
    take(lock, "t")
    os.utime(lock, (1, 1))
    until(lambda: lock.stat().st_mtime > 1)


def test_the_heart_does_not_beat_for_others(lock, monkeypatch):
    """Another batch took the lock while this process stood still: it is not kept alive."""
    take(lock, "mine")
    owner = json.loads(lock.read_text())
    lock.write_text(json.dumps(owner | {"token": "theirs"}))
    os.utime(lock, (1, 1))
    locks._touch(lock, "mine")
    assert lock.stat().st_mtime == 1
    assert not locks.is_mine(lock, "mine")
    release(lock)
    assert lock.exists()
    locks._touch(lock, "theirs")
    assert lock.stat().st_mtime > 1
    lock.write_text("")  # or nobody's
    locks._touch(lock, "mine")
    lock.unlink()
    locks._touch(lock, "mine")


def _compete(path, log, rounds):
    """Take the lock in one process after the other; each dies with it."""
    for i in range(rounds):
        child = os.fork()
        if not child:
            if take(path, f"{os.getpid()}-{i}")[0]:
                with open(log, "a") as file:
                    file.write("in\n")
                time.sleep(0.001)
                with open(log, "a") as file:
                    file.write("out\n")
                if i % 3 == 0:
                    release(path)
            os._exit(0)
        os.waitpid(child, 0)


def test_never_two_at_a_time(lock, tmp_path):
    """Processes compete, and most locks that they find are those of the dead."""
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_compete, args=(lock, log, 60)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    words = log.read_text().split()
    assert len(words) > 100
    assert words == ["in", "out"] * (len(words) // 2)


def test_process_lives():
    assert process_lives(os.getpid(), time.time())
    assert not process_lives(os.getpid(), 1000.0)  # not yet born
    assert not process_lives(2**22 + 5, time.time())


def test_a_lock_that_can_never_be_read_is_not_waited_for(campaign, monkeypatch):
    from roman_dask_l2.batch import run
    from roman_dask_l2.batch.outcome import Outcome
    from roman_dask_l2.batch.plan import Options, make_plan

    outcome = Outcome(make_plan(campaign.file, Options()))
    item = outcome.plan.todo[0]
    path = lock_path(item.config.OUT)
    monkeypatch.setattr(locks, "read_owner", lambda path: (None, time.time()))
    monkeypatch.setattr(run, "DEAD_AFTER", 0.2)
    monkeypatch.setattr(run, "LOOK", 0.1)
    assert run._wait(outcome, [item]) == []
    (record,) = outcome.records
    assert record["status"] == "failed"
    assert record["error"] == f"who holds {path} gives no sign of life"


def test_a_lost_lock(lock, monkeypatch):
    take(lock, "mine")
    assert not locks.is_lost(lock, "mine")
    assert locks.is_lost(lock, "other")
    monkeypatch.setattr(locks, "read_owner", lambda path: (None, 0.0))
    assert not locks.is_lost(lock, "mine")  # nobody can read it
    monkeypatch.undo()
    release(lock)
    assert locks.is_lost(lock, "mine")  # the other one is done
