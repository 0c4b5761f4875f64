"""Light of uniform surface brightness through every shipped recipe: what an image is of it.

Either uniform, or proportional to the solid angle of the pixels, which varies over the simulated
detector by some tenths of a per cent. An image says in ``processinfo.uniform_light`` which.
"""

from __future__ import annotations

import asdf
import numpy as np
import pytest
from astropy.io import fits
from configuring import elsewhere

from roman_dask_l2.cli.demo import _of_recipe
from roman_dask_l2.config.recipe import shipped
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.simulation.wcs import relative_area

SIDE, SKY = 256, 100.0
PROMISED = {
    "l1_to_l2": "solid angle",
    "l1_to_l2_likelihood": "solid angle",
    "mixed": "solid angle",
    "observatory": "uniform",
    "romancal_1.1": "uniform",
    "romanimpreprocess_1.0": "solid angle",
    "romanimpreprocess_1.0_likelihood": "solid angle",
}
"""Recipe -> what its images are of uniform light."""
SLOPE = {"uniform": 0.0, "solid angle": 1.0}
"""Relative change of the image with that of the solid angle."""


def test_every_recipe_promises_something():
    assert set(PROMISED) == set(shipped())


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """``uniform(references)``: bright uniform light and nothing else."""
    made = {}

    def make(references):
        if references not in made:
            from roman_dask_l2.simulation.simulate import simulate

            made[references] = simulate(
                tmp_path_factory.mktemp("uniform"), side=SIDE, seed=12, references=references,
                conditions="plain", stars=0, cosmic_rays=0, sky=SKY,
                noise={"U_PINK": 0.0, "C_PINK": 0.0, "RU_PINK": 0.0, "read": 2.0},
            )  # fmt: skip
        return made[references]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(PROMISED))
def test_uniform_light(recipe, uniform, tmp_path):
    """The slope against the solid angle is the promised one within 5 standard deviations (a false
    alarm in two million), and more than 10 from the other."""
    references = _of_recipe(recipe)["references"]
    path = elsewhere(uniform(references), tmp_path, GRAPH=recipe, FITSOUT=True)
    made = calibrate(path)
    with asdf.open(made.out, memmap=False, lazy_load=False) as file:
        roman = file["roman"]
        rate = np.array(roman["data_withsky" if "data_withsky" in roman else "data"], float)
        good = (np.array(roman["dq"]) == 0) & np.isfinite(rate)
        said = file["processinfo"]["uniform_light"]
    promised = PROMISED[recipe]
    assert said == promised
    with fits.open(made.fits) as copy:
        assert copy[0].header["UNILIGHT"] == promised.upper()
    area = relative_area(SIDE)[good].astype(float)
    assert good.mean() > 0.98
    assert np.ptp(area) > 1e-3
    value = rate[good] / rate[good].mean() - 1
    more = area / area.mean() - 1
    slope = (value * more).sum() / (more**2).sum()
    scatter = np.std(value - slope * more)
    error = scatter / np.sqrt((more**2).sum())
    for light, expected in SLOPE.items():
        off = abs(slope - expected) / error
        assert off < 5 if light == promised else off > 10
    level = SKY * (area.mean() if promised == "solid angle" else 1.0)
    assert abs(rate[good].mean() / level - 1) < 5 * scatter / good.sum() ** 0.5 + 1e-3
