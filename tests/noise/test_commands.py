"""A letter of the layer language is two declarations; nothing else knows it by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import asdf
import numpy as np
import pytest

from roman_dask_l2.config.model import load_config
from roman_dask_l2.config.noise_commands.command import ActsOn, Command
from roman_dask_l2.config.noise_commands.registry import COMMANDS
from roman_dask_l2.config.noise_labels import grammar, parse, warn_about
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_commands.drawing import (
    BlockNoise,
    ExpectedNoise,
    RampNoise,
    SumChange,
)
from roman_dask_l2.products.noise_commands.registry import DRAWINGS
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report.exposure import exposure_report
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("blank_pictures")

DOCS = Path(__file__).resolve().parents[2] / "docs"
KINDS = {ActsOn.RAMP: RampNoise, ActsOn.BLOCKS: BlockNoise, ActsOn.SUM: SumChange}


def test_every_command_that_acts_has_its_drawing():
    acting = {n: c for n, c in COMMANDS.items() if c.acts_on is not ActsOn.NOTHING}
    assert list(DRAWINGS) == list(acting)
    for letter, command in acting.items():
        assert isinstance(DRAWINGS[letter], KINDS[command.acts_on])
        assert bool(command.report) == command.adds_noise
        assert bool(command.streams) == command.adds_noise


# -- a letter of somebody else: uniform noise between -w/2 and w/2 -------------------------------


@dataclass(frozen=True)
class Uniform:
    width: float


def parse_uniform(text):
    width = 1.0
    while text.argument("U", "w"):
        width = text.number("w")
    return Uniform(width)


def draw_uniform(argument, streams, blocks):
    values = np.empty(blocks.window.shape, np.float32)
    odd = np.zeros(values.shape, np.bool_)
    for number, place in blocks:
        rng = streams("uniform", None, number)
        draws = rng.random(place.shape, np.float32) - np.float32(0.5)
        values[place.slices] = argument.width * draws
        odd[place.slices][0, :3] = odd[place.slices][5, 5] = True
    return values, odd


def expect_uniform(argument, quiet):
    return ExpectedNoise(argument.width**2 / 12)


COMMAND = Command(
    letter="U",
    name="uniform",
    grammar='"U" { "w" number }',
    acts_on=ActsOn.BLOCKS,
    parse=parse_uniform,
    forms=(("`U`, `Uw<width>`", "uniform noise"),),
    streams=(("uniform", "uniform draws", "128 × 128 pixels of the frame"),),
    after=("R",),
    no_draw="are odd",
    report="U that of a uniform distribution",
)


@pytest.fixture
def uniform(monkeypatch):
    """The letter U, declared."""
    monkeypatch.setitem(COMMANDS, "U", COMMAND)
    monkeypatch.setitem(DRAWINGS, "U", BlockNoise(draw_uniform, expect_uniform))


def test_a_new_letter_is_read(uniform):
    assert parse("RUw2.5C1").arguments == (
        ("R", parse("R").argument("R")),
        ("U", Uniform(2.5)),
    )
    assert '\nuniform = "U" { "w" number }\n' in grammar()
    for label, said in {
        "UU": "second command 'U'",
        "Uq": "unknown argument 'q' of U",
        "UR": "command 'U' before 'R'",
        "X": "expected one of R, O, P, S, C, U,",
    }.items():
        with pytest.raises(InputError, match=said):
            parse(label)


def test_a_new_letter_adds_noise(uniform, caplog):
    with caplog.at_level(logging.WARNING):
        warn_about([parse("U"), parse("UP")])
    assert not caplog.records


def test_a_new_letter_is_in_the_manual(uniform, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import noise_tables

    tables = noise_tables.tables()
    assert '"U" { "w" number }' in tables["noise_grammar"]
    assert "| `U`, `Uw<width>` | uniform noise |" in tables["noise_commands"]
    assert "| `uniform` | uniform draws |" in tables["noise_streams"]


def test_only_one_command_puts_noise_into_a_ramp(monkeypatch):
    other = Command("V", "v", '"V"', ActsOn.RAMP, lambda text: text.argument("V", "") or 1, ())
    monkeypatch.setitem(COMMANDS, "V", other)
    with pytest.raises(InputError, match="command 'V' beside 'R'"):
        parse("RV")


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    """A calibrated exposure without endslice, which the letter does not need."""
    folder = tmp_path_factory.mktemp("uniform")
    noise = {"LAYER": ["S1"], "TEMP": ".", "SEED": 4, "OUT": "l2_noise.asdf"}
    simulate(folder, side=256, seed=5, config={"NOISE": noise, "SLICEOUT": False})
    calibrate(folder / "config.yaml")
    return folder


def layers(folder, labels, **how):
    config = load_config(folder / "config.yaml")
    made = generate_noise(config.replace(NOISE=config.raw["NOISE"] | {"LAYER": labels}), **how)
    with asdf.open(made.out, memmap=False, lazy_load=False) as file:
        return np.array(file["noise"]), made


def test_a_new_letter_is_drawn(uniform, exposure, caplog):
    found, made = layers(exposure, ["Uw0.5", "Uw0.5S1", "RUw0.5", "R"])
    plain, less, both, read = found
    assert np.abs(plain).max() <= 0.25
    assert plain.var() == pytest.approx(0.25 / 12, rel=0.02)
    assert np.abs(less).max() <= 0.3
    assert (both != read).mean() > 0.99
    with asdf.open(exposure / "l2.asdf", memmap=False, lazy_load=False) as file:
        used = ~np.array(file["mask"])
    # Of 4 in each of 4 blocks of 128 x 128, those that are not on the border, which is 4 wide.
    at = [(y - 4, x - 4) for y in (5, 133) for x in (5, 133)]
    at += [(128 - 4, x - 4) for x in (128, 129, 130)]
    assert made.layers[0]["inadmissible"] == len(at)
    assert made.layers[0]["inadmissible_unmasked"] == sum(used[y, x] for y, x in at)
    assert f"layer Uw0.5: {len(at)} pixels are odd, they are 0" in caplog.text
    other, again = layers(exposure, ["Uw0.5"], tile=(100, 77))
    np.testing.assert_array_equal(other[0], plain)  # whatever the tiles
    assert again.layers[0] == made.layers[0]


def test_a_new_letter_is_in_the_report(uniform, exposure, tmp_path):
    _, made = layers(exposure, ["Uw0.5", "RUw0.5"])
    page = exposure_report(exposure / "l2.asdf", tmp_path / "report.html").read_text()
    assert "for U that of a uniform distribution" in page
    assert f">{0.5 / 12**0.5:.4g}<" in page  # the column of white noise
    assert made.layers[0]["sigma"] == pytest.approx(0.5 / 2 / 1.34896, rel=0.05)
