"""What single runs that were killed leave behind."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from configuring import elsewhere

from roman_dask_l2.batch.leftovers import RECENT, own_temp, remove_leftovers, remove_orphans
from roman_dask_l2.config.model import load_config
from roman_dask_l2.io.atomic import parse_part, replacing
from roman_dask_l2.io.spill import temp_store
from roman_dask_l2.system.processes import OWNER, is_orphan

STORE = """
import sys, time
from pathlib import Path
from roman_dask_l2.io.spill import temp_store
with temp_store(Path(sys.argv[1]), 0) as store:
    print(store.path, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def config(simulated, tmp_path):
    noise = {"LAYER": ["RS2"], "TEMP": str(tmp_path), "SEED": 1, "OUT": "noise.asdf"}
    made = simulated(conditions=(), seed=77)
    return load_config(elsewhere(made, tmp_path, FITSOUT=True, NOISE=noise))


def test_the_store_of_a_killed_run(config, tmp_path):
    """As long as it runs it is left alone; when it was killed it goes."""
    process = subprocess.Popen(
        [sys.executable, "-c", STORE, tmp_path], stdout=subprocess.PIPE, text=True
    )
    store = tmp_path / os.path.basename(process.stdout.readline().strip())
    assert store.is_dir()
    assert remove_orphans(config) == []
    process.kill()
    process.communicate()
    assert is_orphan(store)
    assert remove_orphans(config) == [store]
    assert not store.exists()


def test_stores_of_others_stay(config, tmp_path):
    """That of this process, one that was kept, one of another machine or before a reboot."""
    with temp_store(tmp_path, 0, keep=True) as store:
        kept = store.path
    elsewhere = tmp_path / "roman-dask-l2-1-0123abcd.zarr"
    elsewhere.mkdir()
    (elsewhere / OWNER).write_text("another boot\n1\n1.0\n")
    with temp_store(tmp_path, 0) as store:
        assert remove_orphans(config) == []
        assert os.path.isdir(store.path)
    assert os.path.isdir(kept)
    assert elsewhere.is_dir()


def test_unfinished_files(config, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    node = platform.node()
    gone = {
        tmp_path / f".l2.{node}-{dead.pid}-0123abcd.part.asdf",
        tmp_path / f".l2_asdf_to.{node}-{dead.pid}-0123abcd.part.fits",
    }
    stay = {
        tmp_path / f".l2.{node}-{os.getpid()}-0123abcd.part.asdf",
        tmp_path / f".l2.{node}-{os.getppid()}-0123abcd.part.asdf",
        tmp_path / f".l2.elsewhere-{dead.pid}-0123abcd.part.asdf",
        tmp_path / f".other.{node}-{dead.pid}-0123abcd.part.asdf",
    }
    for path in gone | stay:
        path.touch()
    assert set(remove_orphans(config)) == gone
    assert all(path.exists() for path in stay)
    assert not any(path.exists() for path in gone)


def test_a_batch_leaves_what_another_machine_has_written_lately(config, tmp_path):
    """Its process may have been stalled, and go on."""
    late, old = (tmp_path / f".l2.elsewhere-7-0123abc{i}.part.asdf" for i in range(2))
    for path, silent in ((late, RECENT - 20), (old, RECENT + 1)):
        path.touch()
        os.utime(path, (time.time() - silent,) * 2)
    assert remove_leftovers(config) == [old]
    assert late.exists()


def test_who_lost_the_lock_removes_no_store(config, monkeypatch):
    """An attempt that was taken for dead gives the exposure up; the TEMP store may be that of the
    other one."""
    from roman_dask_l2.batch import work
    from roman_dask_l2.batch.locks import lock_path

    store = own_temp(config)
    store = store.with_name(f"{store.stem}-1-0123abcd.zarr")
    raw = {**config.raw, "NOISE": {**config.raw["NOISE"], "OUT": str(config.NOISE.OUT)}}
    campaign = Path(config.OUT).with_name("campaign.yaml")
    task = work.Work("a=1", raw, str(campaign), str(campaign.with_suffix(".jsonl")))

    def fails(attempt, *_):
        store.mkdir()
        if lost:
            lock = lock_path(config.OUT)
            lock.write_text(lock.read_text().replace(attempt._token, "theirs"))
        raise OSError("the unfinished file is gone")

    monkeypatch.setattr(work._Attempt, "_make", fails)
    for lost in (False, True):
        assert work.run_exposure(task)["status"] == ("held" if lost else "failed")
        assert store.exists() == lost


def test_a_host_name_with_dots(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "n-1.cluster.example")
    with replacing(tmp_path / "l2.x.asdf") as (part,):
        told = parse_part(part.name)
        assert (told.final, told.pid, told.near) == ("l2.x.asdf", os.getpid(), True)
        part.touch()


WRITE = """
import sys, time
from pathlib import Path
from roman_dask_l2.io.atomic import replacing
with replacing(Path(sys.argv[1])) as (part,):
    part.touch()
    print(part, flush=True)
    time.sleep(100)
"""


def test_unfinished_files_of_another_container(config, tmp_path):
    """It may have our host name; its process numbers mean nothing here."""
    command = [sys.executable, "-c", WRITE, str(config.OUT)]
    outside = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    for before, stays in ((outside, True), ([], False)):
        process = subprocess.Popen(
            [*before, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        part = Path(process.stdout.readline().strip())
        if before and not part.name:
            pytest.skip(f"needs namespaces: {process.communicate()[1]}")
        told = parse_part(part.name)
        assert (told.final, told.near) == (config.OUT.name, not stays)
        assert remove_orphans(config) == []
        process.kill()
        process.communicate()
        os.utime(part, (time.time() - RECENT + 20,) * 2)
        assert remove_orphans(config) == ([] if stays else [part])
        if stays:
            assert remove_leftovers(config) == []
            os.utime(part, (time.time() - RECENT - 1,) * 2)
            assert remove_leftovers(config) == [part]
