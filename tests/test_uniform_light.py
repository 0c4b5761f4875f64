"""Light of uniform surface brightness through every shipped recipe: what comes out is what the file
says, uniform or proportional to the solid angle of the pixels."""

from __future__ import annotations

import asdf
import numpy as np
import pytest

from roman_dask_l2.config.model import load_config
from roman_dask_l2.config.recipe import load_recipe, shipped
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.simulation.simulate import simulate
from roman_dask_l2.simulation.wcs import relative_area

SIDE, SKY = 256, 200.0  # pixels, DN/s
UNIFORM = {"observatory", "romancal_1.1"}
BAD = np.uint32(sum(PIXEL[n] for n in ("DO_NOT_USE", "JUMP_DET", "NO_FLAT_FIELD", "NO_LIN_CORR")))


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """``exposed(references)``: an exposure of uniform light, made once."""
    made = {}

    def make(references):
        if references not in made:
            made[references] = simulate(
                tmp_path_factory.mktemp(references), side=SIDE, seed=8, references=references,
                conditions="plain", stars=0, cosmic_rays=0, sky=SKY,
            )  # fmt: skip
        return made[references]

    return make


@pytest.mark.parametrize("recipe", sorted(shipped()))
def test_uniform_light(recipe, exposed, tmp_path):
    """By how much the image follows the solid angles: not at all, or one to one.

    The solid angles spread by 0.09 % (standard deviation), the noise of the image by 0.5 %: over so
    many pixels that gives the slope of the one against the other within a few hundredths.
    """
    steps = {bound.name for bound in load_recipe(recipe).steps}
    simulation = exposed("observatory" if "refpix_irrc" in steps else "survey")
    out = tmp_path / "l2.asdf"
    calibrate(load_config(simulation.config).replace(GRAPH=recipe, OUT=out, SKYORDER=None))
    with asdf.open(out, memmap=False, lazy_load=False) as file:
        said = file["processinfo"]["uniform_light"]
        rate, dq = (np.asarray(file["roman"][name]) for name in ("data", "dq"))
    assert said == ("uniform" if recipe in UNIFORM else "solid angle")
    good = ((dq & BAD) == 0) & np.isfinite(rate)
    assert good.mean() > 0.9
    x, y = relative_area(SIDE)[good].astype(float), rate[good].astype(float)
    x, y = x / x.mean() - 1, y / np.median(y) - 1
    slope = (x * (y - y.mean())).sum() / (x * x).sum()
    error = np.std(y) / (np.std(x) * np.sqrt(len(x)))
    assert error < 0.04
    assert slope == pytest.approx(1.0 if said == "solid angle" else 0.0, abs=5 * error)
