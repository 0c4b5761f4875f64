"""File systems that believe what they have seen for a while, as NFS does; each in one process, with
a model of what such a client sees. ``make shared-test`` has a real one."""

from __future__ import annotations

import errno
import json
import os
import time
import types
from pathlib import Path

import pytest
from stale import Stale

from roman_dask_l2.batch import leftovers, locks, manifest, work
from roman_dask_l2.batch.campaign import load_campaign
from roman_dask_l2.batch.fingerprint import find_unfinished, product_files
from roman_dask_l2.batch.locks import holder, lock_path, read_owner, release, take
from roman_dask_l2.io.atomic import replacing
from roman_dask_l2.system.files import clock_ahead, look_again, status_now


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """Everything below the test's directory, believed for ever."""
    return Stale(tmp_path, 1e9).install(monkeypatch.setattr)


# -- what is there -------------------------------------------------------------------------------


def test_the_model_believes_what_it_has_seen(stale, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("1")
    assert not new.exists()
    assert old.stat().st_size == 1
    os.close(stale.real["open"](new, os.O_CREAT))  # another client
    file = stale.real["open"](old, os.O_WRONLY)
    os.write(file, b"123")
    os.close(file)
    assert not new.exists()
    with pytest.raises(FileNotFoundError):
        new.read_text()
    assert old.stat().st_size == 1
    assert status_now(old).st_size == 3
    look_again(tmp_path)
    assert new.read_text() == ""


def test_what_another_client_has_made_is_finished(done, stale):
    """It was looked for before, and was not there."""
    campaign = load_campaign(done.file)
    config = campaign.config(campaign.entries[0])
    files = [path for paths in product_files(config).values() for path in paths]
    for path in files:
        stale.real["rename"](path, f"{path}.away")
    assert find_unfinished(config)[0]["l2"] == "not there"
    assert not any(path.exists() for path in files)
    for path in files:
        stale.real["rename"](f"{path}.away", path)
    assert not config.OUT.exists()  # this client believes
    assert find_unfinished(config)[0] == {}


def test_what_another_client_has_removed_is_not_finished(done, stale):
    campaign = load_campaign(done.file)
    config = campaign.config(campaign.entries[0])
    assert find_unfinished(config)[0] == {}
    l2, copy, noise, noise_copy = (p for ps in product_files(config).values() for p in ps)
    assert copy.exists()
    stale.real["unlink"](copy)
    assert copy.exists()  # this client believes
    assert f"{copy.name} is not there" in find_unfinished(config)[0]["l2"]


# -- clocks --------------------------------------------------------------------------------------


def other_machine(lock: Path, **changes) -> None:
    """A lock of a process that cannot be seen from here."""
    owner = {"host": "elsewhere", "space": "x", "pid": 1, "born": 1.0, "token": "other"}
    lock.write_text(json.dumps(owner | changes))


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_ahead", {})
    path = lock_path(tmp_path / "out.asdf")
    yield path
    release(path)


@pytest.mark.parametrize("ahead", [-2000, 0, 2000])
def test_silence_is_told_by_the_clock_of_the_files(lock, monkeypatch, ahead):
    """The clock of the file server, or of this machine, may be minutes away from the right time."""
    monkeypatch.setattr(locks, "clock_ahead", lambda folder: ahead)
    other_machine(lock)
    last = time.time() + ahead - locks.DEAD_AFTER
    os.utime(lock, (last + 20, last + 20))
    assert holder(lock).token == "other"
    assert take(lock, "mine")[0] is False
    os.utime(lock, (last - 1000, last - 1000))
    assert holder(lock) is None
    assert take(lock, "mine")[0] is True


def test_the_clock_of_the_files(tmp_path, monkeypatch):
    assert abs(clock_ahead(tmp_path)) < 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 300)  # this machine's clock is behind
    assert 298 < clock_ahead(tmp_path) < 330
    assert clock_ahead(tmp_path / "nowhere") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ahead", [-600, 0, 600])
def test_what_was_asked_for_anew_is_told_by_the_clock_of_the_files(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(work, "clock_ahead", lambda folder: ahead)
    made, asked = tmp_path / "l2.asdf", time.time()
    made.write_text("")
    attempt = work._Attempt(work.Work("x", {}, "c", "m", since=asked))
    os.utime(made, (asked + ahead - 5,) * 2)
    assert attempt._is_old(made)
    os.utime(made, (asked + ahead + 5,) * 2)
    assert not attempt._is_old(made)


def test_a_file_of_another_machine_is_in_use_by_the_clock_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "clock_ahead", lambda folder: -600)
    part = types.SimpleNamespace(near=False, pid=1)
    path = tmp_path / "part"
    path.write_text("")
    os.utime(path, (time.time() - 610,) * 2)
    assert leftovers._in_use(path, part)
    os.utime(path, (time.time() - 600 - leftovers.RECENT - 10,) * 2)
    assert not leftovers._in_use(path, part)


# -- locks ---------------------------------------------------------------------------------------


def test_a_living_lock_in_the_place_of_a_dead_one_is_put_back(lock, monkeypatch):
    """The server stands still between the look at a dead lock and its removal; meanwhile another
    process has removed it and taken its own."""
    other_machine(lock, token="dead")
    os.utime(lock, (0, 0))
    rename, living = os.rename, []

    def late(old, new, **how):
        if Path(old) == lock and not living:
            other_machine(lock.with_name("theirs"), token="living")
            rename(lock.with_name("theirs"), lock)
            living.append(lock.stat().st_ino)
        return rename(old, new, **how)

    monkeypatch.setattr(os, "rename", late)
    monkeypatch.setattr(os, "unlink", _late_unlink(os.unlink, lock, late))
    taken, other = take(lock, "mine")
    assert (taken, other.token) == (False, "living")
    assert lock.stat().st_ino == living[0]
    assert [p.name for p in lock.parent.iterdir()] == [lock.name]


def _late_unlink(unlink, lock, late):
    """The same for a lock that is removed without being renamed."""

    def remove(path, **how):
        if Path(path) == lock:
            late(path, f"{path}.gone")
            path = f"{path}.gone"
        return unlink(path, **how)

    return remove


def test_a_lock_that_was_renamed_by_a_killed_process_is_removed(tmp_path, simulated):
    from configuring import elsewhere

    from roman_dask_l2.config.model import load_config

    config = load_config(elsewhere(simulated(conditions=(), seed=77), tmp_path))
    left = lock_path(config.OUT).with_name(f"{lock_path(config.OUT).name}.0123abcd")
    other_machine(left)
    assert leftovers.find_leftovers({"x": config}) == {"x"}
    assert leftovers.remove_leftovers(config) == []  # it may be put back
    os.utime(left, (0, 0))
    assert leftovers.remove_leftovers(config) == [left]


def test_a_lock_that_the_server_has_and_the_client_does_not_see(lock, monkeypatch):
    """Held by someone unknown: no loop that asks the server as fast as it can."""
    asked = []
    other_machine(lock)
    monkeypatch.setattr(locks, "_UNSEEN", 3)
    monkeypatch.setattr(locks, "read_owner", lambda path: asked.append(path))
    taken, other = take(lock, "mine")
    assert (taken, other.token) == (False, "")
    assert len(asked) == 4


@pytest.mark.parametrize("fault", ["unlink", "open"])
def test_a_lock_that_could_not_be_given_back_is_removed_later(lock, monkeypatch, fault):
    assert take(lock, "mine")[0]
    with monkeypatch.context() as broken:
        real = getattr(os, fault)

        def fail(path, *more, **how):
            if Path(path) == lock:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return real(path, *more, **how)

        broken.setattr(os, fault, fail)
        release(lock)
        locks.give_signs()
        assert lock.exists()
    locks.give_signs()
    assert not lock.exists()
    assert not locks._owed


def test_a_disk_that_is_full_when_a_lock_is_closed(lock, monkeypatch):
    """Network file systems tell of it then."""
    from roman_dask_l2.errors import InputError

    close = os.close

    def full(file):
        close(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(InputError, match="out.asdf.lock: cannot be written .No space left"):
        take(lock, "mine")
    monkeypatch.undo()
    assert not lock.exists()


# -- manifest and outputs ------------------------------------------------------------------------


def test_a_line_that_others_write_over_is_written_again(tmp_path, monkeypatch):
    """Without locks, two clients take the same place for the end of the file."""
    path, write, over = tmp_path / "m.jsonl", os.write, []
    theirs = {"identity": "b", "attempt": "2", "status": "done"}
    manifest.append(path, {"identity": "z", "attempt": "0", "status": "done"})

    def written(file, data):
        place = os.fstat(file).st_size
        count = write(file, data)
        if not over:
            over.append(place)
            other = os.open(path, os.O_WRONLY)
            os.pwrite(other, json.dumps(theirs).encode() + b"\n", place)
            os.close(other)
        return count

    monkeypatch.setattr(os, "write", written)
    mine = {"identity": "a", "attempt": "1", "status": "done", "error": "x" * 100}
    manifest.append(path, mine)
    assert manifest.read(path).last.keys() == {"a", "b", "z"}
    assert manifest.read(path).last["a"] == mine


def test_a_rename_whose_answer_was_lost(tmp_path, monkeypatch):
    replace, final = os.replace, tmp_path / "out.asdf"

    def lost(old, new):
        replace(old, new)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(old))

    monkeypatch.setattr(os, "replace", lost)
    with replacing(final) as (part,):
        part.write_text("new")
    assert final.read_text() == "new"


def test_a_file_that_another_process_has_removed(tmp_path, monkeypatch):
    """Whatever has its name meanwhile."""
    final = tmp_path / "out.asdf"
    replace = os.replace

    def removed(old, new):
        os.unlink(old)
        Path(new).write_text("Mine")  # number and size of the file are used again
        replace(old, new)

    monkeypatch.setattr(os, "replace", removed)
    with pytest.raises(FileNotFoundError), replacing(final) as (part,):
        part.write_text("mine")
    assert final.read_text() == "Mine"


def test_errors_of_writing_name_the_file(tmp_path, monkeypatch):
    def stale_handle(file):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "fsync", stale_handle)
    named = r"Stale file handle: '.*/\.out\..*\.part\.asdf'"
    with pytest.raises(OSError, match=named), replacing(tmp_path / "out.asdf") as (part,):
        part.write_text("new")
    assert not list(tmp_path.iterdir())
    assert read_owner(tmp_path / "none") is None
