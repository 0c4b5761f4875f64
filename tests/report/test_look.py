"""Quick-look pictures."""

from __future__ import annotations

import sys

import asdf
import numpy as np
import pytest

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.report.blocks import KINDS, block_kinds, block_mean
from roman_dask_l2.report.look import quicklook


@pytest.fixture(scope="module")
def calibrated(simulated):
    simulation = simulated(seed=11)
    return calibrate(simulation.config).out, simulation.truth


def is_png(path):
    from matplotlib.image import imread

    pixels = imread(path)
    return pixels.shape[0] > 500 and pixels.shape[1] > 2 * pixels.shape[0] and pixels.std() > 0.05


def test_with_truth(calibrated, tmp_path):
    l2, truth = calibrated
    assert quicklook(l2, truth, tmp_path / "look.png") == tmp_path / "look.png"
    assert is_png(tmp_path / "look.png")


def test_without_truth_beside_the_image(calibrated):
    assert quicklook(calibrated[0]) == calibrated[0].with_suffix(".png")
    assert is_png(calibrated[0].with_suffix(".png"))


def test_image_without_a_good_pixel(calibrated, tmp_path):
    with asdf.open(calibrated[0], memmap=False, lazy_load=False) as file:
        file["roman"]["data_withsky"][:] = np.nan
        file.write_to(tmp_path / "l2.asdf")
    assert is_png(quicklook(tmp_path / "l2.asdf", calibrated[1]))
    assert is_png(quicklook(tmp_path / "l2.asdf"))


def test_says_what_to_install(calibrated, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"roman-dask-l2\[plots\]"):
        quicklook(calibrated[0])


def test_bad_input(calibrated, simulated, tmp_path):
    l2, truth = calibrated
    (tmp_path / "text.asdf").write_text("nothing\n")
    asdf.AsdfFile({"truth": {"rate": np.zeros((3, 3))}}).write_to(tmp_path / "small.asdf")
    for arguments, message in [
        ((tmp_path / "none.asdf",), r"none\.asdf: cannot be read"),
        ((tmp_path / "text.asdf",), r"text\.asdf: not an ASDF file"),
        ((truth,), "has no 'roman'"),
        ((l2, l2, tmp_path / "a.png"), "has no 'truth'"),
        ((l2, tmp_path / "small.asdf", tmp_path / "a.png"), r"shape \(3, 3\)"),
        ((l2, truth, tmp_path / "none" / "a.png"), "cannot write"),
    ]:
        with pytest.raises(InputError, match=message):
            quicklook(*arguments)
    assert not (tmp_path / "a.png").exists()


def test_block_mean_leaves_masked_pixels_out():
    image = np.arange(20, dtype=np.float32).reshape(4, 5)  # the fifth column fills no block
    mask = np.zeros(image.shape, bool)
    image[0, 0], mask[0, 0] = np.nan, True
    mask[2:, 2:4] = True
    expected = [[(1 + 5 + 6) / 3, (2 + 3 + 7 + 8) / 4], [(10 + 11 + 15 + 16) / 4, np.nan]]
    np.testing.assert_allclose(block_mean(image, mask, 2), expected)


def test_block_kinds_takes_the_first_kind():
    labels = [label for label, _, _ in KINDS]
    dq = np.zeros((4, 4), np.uint32)
    dq[0, 1] = PIXEL["JUMP_DET"]
    dq[1, 1] = PIXEL["SATURATED"] | PIXEL["HOT"]
    dq[0, 3] = PIXEL["JUMP_DET"]
    dq[3, 3] = PIXEL["NONLINEAR"]
    kinds = [
        [1 + labels.index("saturated"), 1 + labels.index("jump")],
        [0, 1 + labels.index("other")],
    ]
    np.testing.assert_array_equal(block_kinds(dq, 2), kinds)
