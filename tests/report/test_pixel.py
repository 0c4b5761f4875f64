"""One pixel through all steps: it must be the pixel of the Level 2 file."""

from __future__ import annotations

import contextlib
import shutil

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli import app
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.report.pixel import AROUND, look_at_pixel, resultants


@pytest.fixture(scope="module")
def image(exposure_with_noise):
    with asdf.open(exposure_with_noise.l2, memmap=False, lazy_load=False) as file:
        roman = file["roman"]
        return {
            "rate": np.array(roman["data_withsky"]),
            "dq": np.array(roman["dq"]),
            "mask": np.array(file["mask"]),
        }


def first(image, flag, without=0):
    y, x = np.argwhere((image["dq"] & PIXEL[flag] != 0) & (image["dq"] & without == 0))[3]
    return int(x), int(y)


@pytest.mark.parametrize("place", ["corner", "JUMP_DET", "SATURATED", "middle"])
def test_same_as_the_image(exposure_with_noise, image, place):
    """Rate, flags and mask, also of the neighbours, also at the edge."""
    size = image["rate"].shape[0]
    places = {"corner": (0, size - 1), "middle": (size // 2, size // 3)}
    x, y = places[place] if place in places else first(image, place)
    found = look_at_pixel(exposure_with_noise.config, x, y)
    for v in range(-AROUND, AROUND + 1):
        for u in range(-AROUND, AROUND + 1):
            at = (v + AROUND, u + AROUND)
            if not (0 <= y + v < size and 0 <= x + u < size):
                assert np.isnan(found.around["rate"][at])
                assert found.around["mask"][at]
                continue
            for name in image:
                assert found.around[name][at] == image[name][y + v, x + u], (name, u, v)
    assert found.stored["data_withsky"] == image["rate"][y, x]
    assert found.other_recipe == ""
    said = "\n".join(found.lines())
    assert f"x = {x}, y = {y}" in said
    if place in PIXEL:
        assert place in said


def test_who_set_a_flag(exposure_with_noise, image):
    """Saturation is found by the step saturation, a jump by the fit; flags of files by dq_init."""
    by_step = {"SATURATED": "saturation", "JUMP_DET": "ramp_fit", "HOT": "dq_init"}
    for flag, step in by_step.items():
        x, y = first(image, flag, without=PIXEL["SATURATED"] if flag == "JUMP_DET" else 0)
        steps = look_at_pixel(exposure_with_noise.config, x, y).steps
        setting = [a.step for a in steps if any(flag in text for text in a.flags)]
        assert setting[0] == step, flag


def test_line_and_residuals(exposure_with_noise, image):
    """What the weights leave over is orthogonal to them: no slope is left in it."""
    y, x = np.argwhere(image["dq"] == 0)[100]
    found = look_at_pixel(exposure_with_noise.config, int(x), int(y))
    (used,) = found.segments
    assert list(used) == list(range(1, found.exposure.n_resultants))
    assert np.isnan(found.residuals[0])
    slope = np.polyfit(found.exposure.tbar[used], found.residuals[used], 1)[0]
    assert abs(slope) < 3 * found.fit["err"]
    line = found.fitted[used] - found.residuals[used]
    np.testing.assert_allclose(
        np.diff(line) / np.diff(found.exposure.tbar[used]), found.fit["rate"], rtol=1e-3, atol=1e-3
    )


def test_jump_taken_out(exposure_with_noise, image):
    """By the likelihood fit a ramp with a jump has a line on either side of it."""
    raw = yaml.safe_load(exposure_with_noise.config.read_text())
    from roman_dask_l2.config.model import load_config

    config = load_config(raw | {"GRAPH": "l1_to_l2_likelihood"},
                         base=exposure_with_noise.config.parent)  # fmt: skip
    several = 0
    for y, x in np.argwhere(image["dq"] == PIXEL["JUMP_DET"])[:8]:
        found = look_at_pixel(config, int(x), int(y))
        several += len(found.segments) > 1
        assert found.other_recipe == "l1_to_l2"
        assert (np.diff(np.concatenate(found.segments)) > 0).all() if several else True
    assert several >= 2


def test_command(exposure_with_noise, tmp_path, capsys):
    picture = tmp_path / "pixel.png"
    config = str(exposure_with_noise.config)
    assert app.main(["pixel", config, "30", "40", "-o", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "signal (DN) after each step" in said
    assert "in the Level 2 file:" in said
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert app.main(["pixel", config, "30", "504"]) == 2
    assert "Y = 504: no such pixel, expected 0 to 503" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such pixel"):
        look_at_pixel(exposure_with_noise.config, -1, 0)


def test_resultants():
    assert resultants([3]) == "resultant 3"
    assert resultants([1, 2, 3, 7]) == "resultants 1-3, 7"


@pytest.mark.slow
def test_section_of_a_page(exposure_with_noise, tmp_path, check_page, plots, image, capsys, drawn):
    """From the image alone, and from its configuration; several pixels, one of them twice."""
    x, y = first(image, "JUMP_DET", without=PIXEL["SATURATED"])
    more = ["--pixel", "7", "9", "--pixel", str(x), str(y)]
    for i, source in enumerate((exposure_with_noise.l2, exposure_with_noise.config)):
        out = tmp_path / f"{i}.html"
        given = ["report", str(source), "-o", str(out), "--pixel", str(x), str(y), *more]
        with plots() as figures, contextlib.nullcontext() if i else drawn():
            assert app.main([*given, "--quiet"]) == 0
        page = check_page(out)
        assert page.ids[1:3] == [f"pixel_{x}_{y}", "pixel_7_9"]
        assert {f"pixel_{x}_{y}_ramp", "pixel_7_9_around"} <= set(figures)
        found = look_at_pixel(exposure_with_noise.config, x, y)
        assert "\n".join(found.lines()) in page.text
        assert f"rate {found.fit['rate']:.5g}" in page.text
        for after in found.steps:
            assert ", ".join(after.flags) in page.text
    capsys.readouterr()


def test_a_page_without_the_files_of_a_pixel(exposure_with_noise, tmp_path, capsys):
    """It says which are missing, and leaves nothing behind."""
    alone = tmp_path / "l2.asdf"
    shutil.copy(exposure_with_noise.l2, alone)
    assert app.main(["report", str(alone), "--pixel", "3", "4", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"--pixel: {alone} cannot be made again: " in said
    assert "no such file" in said
    assert "Traceback" not in said
    assert app.main(["report", str(exposure_with_noise.l2), "--pixel", "3", "4000", "--quiet"]) == 2
    assert "--pixel 3 4000: no such pixel, expected 0 to 503" in capsys.readouterr().err
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text("template: {}\nexposures: []\n")
    assert app.main(["report", str(campaign), "--pixel", "3", "4", "--quiet"]) == 2
    assert "--pixel 3 4" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign.yaml", "l2.asdf"]
