"""The benchmark of a campaign measures what the other tables of its page speak of."""

from __future__ import annotations

import sys

import pytest
from configuring import elsewhere
from programs import load

from roman_dask_l2.batch.campaign import load_campaign
from roman_dask_l2.config.model import load_config
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.provenance import settings
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.slow

batch, traffic = load("batch"), load("traffic")


def test_both_tables_of_the_page_are_of_one_configuration(simulated, tmp_path):
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


def test_holes_are_not_written(simulated, tmp_path):
    """The bytes on disk are those that the arithmetic of traffic.py gives, to some blocks."""
    config = elsewhere(simulated(conditions=(), seed=77, side=512), tmp_path, FITSOUT=False)
    calibrate(config)
    wanted = traffic.traffic(traffic.prepare(config))["written"]
    assert wanted <= batch.on_disk(tmp_path / "l2.asdf") < 1.02 * wanted + 2e5
    assert (tmp_path / "l2.asdf").stat().st_size > wanted + 900_000  # with the hole


def exposure_of(i, sca, seconds, memory, began):
    return {
        "identity": f"filter=F158,obs={i},sca={sca}", "began": began, "seconds": seconds,
        "cpu_seconds": 2 * seconds, "peak_memory": 10**9, "memory": memory,
    }  # fmt: skip


@pytest.fixture
def batch_result():
    """Four exposures of two detectors, half a second between them; then with a layer."""

    def one(factor):
        lengths, began, done = (9.0, 4.0, 5.0, 4.2), 100.0, []
        for i, seconds in enumerate(lengths):
            spent = seconds * factor
            done.append(exposure_of(i % 2 + 1, i // 2 + 1, spent, 1e9 + 5e6 * i, began))
            began += spent + 0.5
        return {
            "wall": 30,
            "others": 0.0,
            "stolen": 0.0,
            "cpu": 30,
            "anonymous": 1e9,
            "resident": 1.2e9,
            "bytes": 4 * 10**8 * factor,
            "exposures": done,
        }

    return {
        "date": "2026-01-01 00:00 UTC", "commit": "abc", "threads": 2,
        "machine": {"cpu": "X", "processors": 2, "memory_GB": 8.0, "kernel": "6"},
        "campaign": {"side": 4096, "resultants": 8, "detectors": 2, "exposures": 4},
        "cases": {"calibration": [one(1)], "layer": [one(2)]},
    }  # fmt: skip


def test_exposures_after_the_first(batch_result):
    found = batch.summary(batch_result["cases"]["calibration"])
    assert found["seconds"] == pytest.approx((4 + 5 + 4.2) / 3 + 0.5)
    assert found["cpu_seconds"] == pytest.approx(2 * (4 + 5 + 4.2) / 3)
    assert (found["least"], found["most"], found["first"]) == (4, 5, 9)
    assert found["other_detector"] == 5
    assert found["growth"] == pytest.approx(100 * 5e6 / 1.01e9)


def test_exposures_after_those_that_ran_with_the_first(batch_result):
    """They end at the same time, and their `seconds` are shares."""
    (one,) = batch_result["cases"]["calibration"]
    for line, ended in zip(one["exposures"], (110.0, 110.2, 118.0, 118.4), strict=True):
        line |= {"together": 2, "ended": ended}
    found = batch.summary([one])
    assert found["seconds"] == pytest.approx((118.4 - 110.2) / 2)
    assert found["cpu_seconds"] == pytest.approx(5 + 4.2)
    assert (found["least"], found["most"], found["first"]) == (4.2, 5, 9)


def test_what_it_means_for_a_survey(batch_result):
    survey = batch.Survey(exposures=1000, detectors=10, layers=3)
    text = batch.survey_page(batch_result, survey)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    # 8.8 CPU s to calibrate and as much for a layer; 4.9 s and 4.4 s of two processors
    assert ["a layer of read noise", "8.8 s", "8.8 s", "0.40 GB"] in rows
    assert ["10000 images, calibration", "24 h", "27 h", "4.0 TB"] in rows
    assert ["10000 images with 3 layers", "98 h", "101 h", "16.0 TB"] in rows
    assert "1000 exposures with 10 detectors, so 10000 images" in text


def test_a_quick_batch(tmp_path, monkeypatch, capsys):
    """The whole program on small detectors: it measures what it shows, and writes nothing."""
    monkeypatch.setattr(batch.exposures, "CACHE", tmp_path)
    monkeypatch.setattr(batch.exposures, "_simulate", lambda to, how: simulate(to, **how))
    written = []
    monkeypatch.setattr(batch.report, "write_json", lambda *a: written.append(a))
    monkeypatch.setattr(batch.report, "put_into_page", lambda *a: written.append(a))
    small = batch.exposures.campaign
    monkeypatch.setattr(batch.exposures, "campaign", lambda side, d, n: small(side, 2, 2))
    monkeypatch.setattr(sys, "argv", ["batch.py", "--quick"])
    assert batch.main() == 0
    text = capsys.readouterr().out
    assert "Nothing was written" in text
    assert written == []
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    seconds = next(float(row[1]) for row in rows if row[0] == "calibration")
    least, most = next(row[3] for row in rows if row[0] == "calibration").split(" to ")
    assert 0 < float(least) <= float(most)
    assert seconds > 0
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("bench*"))
    assert len(list((folder / "l1").iterdir())) == 4
