"""The benchmark of a campaign measures what the other tables of its page speak of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from roman_dask_l2.batch.campaign import load_campaign
from roman_dask_l2.config.model import load_config
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.provenance import settings

HERE = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"a_batch_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def batch():
    return load("batch")


def test_both_tables_of_the_page_are_of_one_configuration(batch, simulated, tmp_path):
    """A campaign's exposure has the settings of the one whose bytes are counted."""
    made = simulated(conditions=(), seed=77)
    (tmp_path / "cal_1").mkdir()
    for path in made.config.with_name("cal").iterdir():
        (tmp_path / "cal_1" / path.name).symlink_to(path)
    (tmp_path / "l1").mkdir()
    (tmp_path / "l1" / "sim_L1_F158_1_1.asdf").symlink_to(made.l1)
    for case in batch.CASES.values():
        campaign = load_campaign(batch.write_campaign(tmp_path, case, "bench"))
        (entry,) = campaign.entries
        assert settings(campaign.config(entry), "l2") == settings(load_config(made.config), "l2")


def test_holes_are_not_written(batch, simulated, tmp_path):
    """The bytes on disk are those that the arithmetic of traffic.py gives, to some blocks."""
    traffic = load("traffic")
    config = simulated(conditions=(), seed=77, side=512).config
    raw = yaml.safe_load(config.read_text())
    here = config.parent
    raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
    raw |= {"IN": str(here / raw["IN"]), "FITSWCS": str(here / raw["FITSWCS"])}
    raw |= {"OUT": str(tmp_path / "l2.asdf"), "FITSOUT": False}
    calibrate(raw)
    wanted = traffic.traffic(traffic.prepare(raw))["written"]
    assert wanted <= batch.on_disk(tmp_path / "l2.asdf") < 1.02 * wanted + 2e5
    assert (tmp_path / "l2.asdf").stat().st_size > wanted + 900_000  # with the hole
