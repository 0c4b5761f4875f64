"""What single runs that were killed leave behind."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import yaml

from roman_dask_l2.batch.leftovers import remove_orphans
from roman_dask_l2.config import load_config
from roman_dask_l2.io.spill import temp_store
from roman_dask_l2.processes import OWNER, is_orphan

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
    made = simulated(conditions=(), seed=77)
    raw = yaml.safe_load(made.config.read_text())
    here = made.config.parent
    raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
    raw |= {"IN": str(here / raw["IN"]), "FITSWCS": str(here / raw["FITSWCS"]), "FITSOUT": True}
    raw |= {"OUT": str(tmp_path / "l2.asdf")}
    raw["NOISE"] = {"LAYER": ["RS2"], "TEMP": str(tmp_path), "SEED": 1, "OUT": "noise.asdf"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    return load_config(tmp_path / "config.yaml")


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
