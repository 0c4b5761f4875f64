"""The page on ramp fits says what was measured."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from programs import load

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "fits.md").read_text()
FLAT = " ".join(PAGE.split())


@pytest.fixture
def fit_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import fit_tables

    return fit_tables


def test_requirements_are_met(fit_tables, monkeypatch):
    """What is measured is what the program takes for good, on all rates."""
    monkeypatch.setattr(sys, "path", [str(DOCS.parent / "validation/truth"), *sys.path])
    likelihood = load("likelihood", "validation/truth")
    found = fit_tables.measured()
    assert likelihood.failures(found) == []
    assert {row["rate"] for row in found["errors"]} == set(likelihood.CURVE)
    assert {row["rate"] for row in found["hits"]} == set(likelihood.SKIES)
    assert set(fit_tables.REQUIRED) == set(likelihood.RATES)


def test_how_it_was_measured(fit_tables):
    found = fit_tables.measured()
    many, few = sorted({row["pixels"] for row in found["errors"]}, reverse=True)
    assert f"{many:,}".replace(",", " ") in FLAT
    assert 1_000_000 <= few < 1_100_000
    assert f"{found['side']} × {found['side']} pixels, seed {found['seed']}" in FLAT
    assert f"with seed {found['seed']}." in FLAT
    assert f"gain {found['gain']} e/DN, read noise {found['read_noise']} DN" in FLAT
    frames = [str(len(reads)) for reads in found["read_pattern"]]
    listed = f"{len(frames)} resultants of {', '.join(frames[:-1])} and {frames[-1]} frames"
    assert f"{listed} of {found['frame_time']} s" in FLAT
    for row in found["hits"]:
        drawn = sum(b["pixels"] for b in row["bins"])
        assert f"{drawn:,} ramps of each rate".replace(",", " ") in FLAT


def test_what_is_said_of_the_numbers(fit_tables):
    """Statements of the text that another measurement could contradict."""
    found = fit_tables.measured()
    for fixed, likely in fit_tables._pairs(found):
        assert likely["scatter"] < 1.002 * fixed["scatter"]
        assert 0.995 < fixed["scatter"] / fixed["err"] < 1.005
        assert 0.995 < likely["scatter"] / likely["err"] < 1.005
        assert 1.8 < likely["seconds"] / fixed["seconds"] < 3.2
        assert likely["false_jumps"] > fixed["false_jumps"]
    for fit, said in (("likelihood", "1.2 to 1.5 s"), ("fixed", "0.5 to 0.7 s")):
        assert said in FLAT
        low, high = (float(number) for number in re.findall(r"[\d.]+", said))
        rows = [r for r in found["errors"] if r["fit"] == fit and r["rate"] in fit_tables.REQUIRED]
        seconds = [row["seconds"] for row in rows]
        assert low == pytest.approx(min(seconds), abs=0.0501)
        assert high == pytest.approx(max(seconds), abs=0.0501)
    gains = {a["rate"]: 1 - b["scatter"] / a["scatter"] for a, b in fit_tables._pairs(found)}
    assert "3 to 5 % smaller from 10 DN/s up" in FLAT
    assert all(0.025 < gain < 0.055 for rate, gain in gains.items() if rate >= 10)
    (at,) = [pair for pair in fit_tables._pairs(found) if pair[0]["rate"] == 0.4]
    assert at[1]["scatter"] == pytest.approx(at[0]["scatter"], rel=2e-3)


@pytest.mark.parametrize("name", ["errors", "weighting", "hits", "frame", "usable"])
def test_tables(fit_tables, name):
    lines = fit_tables.TABLES[name](fit_tables.measured()).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 3
    assert f"_generated/fits_{name}.md" in PAGE
    assert "nan" not in "".join(lines)


def test_pictures(fit_tables):
    import fit_pictures

    shown = re.findall(r"\]\(images/(\w+)\.png\)", PAGE)
    assert sorted(shown) == sorted(fit_pictures.PICTURES)
    found = fit_tables.measured()
    for name, draw in fit_pictures.PICTURES.items():
        for ax in draw(found).axes:
            assert ax.lines
        assert (DOCS / "images" / f"{name}.png").is_file()
    left = fit_pictures.cosmic_rays(found).axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in left.lines}
    bins = next(r["bins"] for r in found["hits"] if r["fit"] == "likelihood" and r["rate"] == 0.4)
    assert list(drawn["likelihood: right rate"]) == [100 * b["within"] for b in bins]
