"""The modules beside the tests can be imported by name; the exposure that is edited."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exposure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    from edits import Exposure

    from roman_dask_l2.simulation.simulate import simulate

    made = simulate(
        folder / "whole", side=256, seed=3, conditions="plain", cosmic_rays=0, stars=0,
        dark_decay=True, extra_plane=False,
    )  # fmt: skip
    return Exposure(made, folder / "edited")
