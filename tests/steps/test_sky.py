"""Sky: cells, fit, model and the mode of the background."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import legendre
from pydantic import ValidationError
from scipy import ndimage

from roman_dask_l2.config.recipe import load_recipe
from roman_dask_l2.core.cells import MAX_ORDER
from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import MASK_GROWTH, PIXEL
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.mask import grown_mask
from roman_dask_l2.steps.sky import (
    SkyParams,
    background_mode,
    bands,
    binned,
    cell_edges,
    cell_rows,
    cells,
    find_mode,
    fit_cells,
    fit_sky,
    measure_background,
    measure_cell,
    measure_row,
    medsky,
    sky_image,
    sky_model,
    step,
    subtract_model,
    terms,
)

ORDERS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]


def surface(coefs, order, side=256):
    """sum c_ij P_i(u) P_j(v), u along x, by numpy's leggrid2d; on the full frame."""
    n = side - 8
    w = 2 * (np.arange(side) - 4) / n - 1
    grid = np.zeros((order + 1, order + 1))
    pairs = ((i, j) for i in range(order + 1) for j in range(order + 1 - i))
    for c, (i, j) in zip(coefs, pairs, strict=True):
        grid[i, j] = c
    return legendre.leggrid2d(w, w, grid).T


def fitted(rate, exposure, order, dq=None, **options):
    params = SkyParams(order=order, **options)
    dq = np.zeros(rate.shape, np.uint32) if dq is None else dq
    rate = rate.astype(np.float32)
    partials = [
        measure_row(rate[w.slices], dq[w.slices], exposure=exposure, params=params)
        for w in cell_rows(exposure, params)
    ]
    return params, fit_cells(partials, exposure=exposure, params=params)


@pytest.mark.parametrize("side", [256, 384, 640, 4096])
def test_cells(side):
    """Eight by eight cells of equal size; what is left over is split between both edges."""
    edges = np.array(cell_edges(side))
    active = side - 8
    assert len(edges) == 8
    assert (edges[:, 1] - edges[:, 0] == active // 8).all()
    assert (edges[1:, 0] == edges[:-1, 1]).all()
    assert edges[0, 0] == active % 8 // 2
    assert active - edges[-1, 1] - edges[0, 0] in (0, 1)


def test_cells_are_windows_of_the_full_frame(exposure):
    windows = cells(exposure, SkyParams(order=1))
    assert len(windows) == 64
    assert windows[0] == (4, 35, 4, 35)
    assert windows[1] == (4, 35, 35, 66)
    assert windows[-1] == (221, 252, 221, 252)
    assert cells(exposure, SkyParams()) == []


def test_order_of_the_coefficients():
    assert terms(2) == ORDERS


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5, 7])
def test_recovers_a_polynomial(order, exposure, run_step, window):
    """Up to a plane the median of a cell is its centre's value; beyond, its curvature biases it,
    which is why the medians are given here."""
    rng = np.random.default_rng(order)
    coefs = rng.normal(0, 1, (order + 1) * (order + 2) // 2)
    coefs[0] = 5
    params = SkyParams(order=order)
    centres = [(w.y0 + w.y1 - 1) / 2 - 4 for w in cells(exposure, params)]
    v = 2 * np.array(centres) / 248 - 1
    u = v.reshape(8, 8).T.ravel()
    grid = np.zeros((order + 1, order + 1))
    for c, (i, j) in zip(coefs, terms(order), strict=True):
        grid[i, j] = c
    found = {"coefs": fit_sky(list(legendre.legval2d(u, v, grid)), order, exposure)}
    np.testing.assert_allclose(found["coefs"], coefs, rtol=1e-10, atol=1e-12)
    rate = surface(coefs, order).astype(np.float32)
    data = run_step(step, exposure, window, {"rate": rate}, params, found)["data"]
    assert data.dtype == np.float32
    np.testing.assert_allclose(data, 0, atol=4e-6)


def test_plane_through_medians(exposure, run_step, window):
    coefs = [2.0, 0.3, -0.7]
    rate = surface(coefs, 1)
    rate += np.random.default_rng(1).laplace(0, 1e-4, rate.shape)
    rate[::13, ::17] += 1000  # stars
    rate = rate.astype(np.float32)
    params, found = fitted(rate, exposure, 1)
    np.testing.assert_allclose(found["coefs"], coefs, atol=2e-3)
    data = run_step(step, exposure, window, {"rate": rate}, params, found)["data"]
    expected = rate - surface(found["coefs"], 1)
    np.testing.assert_allclose(data, expected[window.slices], rtol=1e-6, atol=1e-6)


def test_along_x_and_along_y(exposure):
    """c_10 belongs to x, c_01 to y."""
    y, x = np.mgrid[:256, :256] / 124.0
    assert abs(fitted(x, exposure, 1)[1]["coefs"] - [128 / 124, 0, 1]).max() < 1e-6
    assert abs(fitted(y, exposure, 1)[1]["coefs"] - [128 / 124, 1, 0]).max() < 1e-6


def test_cells_without_a_median_are_left_out(exposure):
    """With every pixel too, a cell that is NaN in part has a median; numpy.nanmedian's."""
    rate = surface([2.0, 0.3, -0.7], 1)
    rate[30:100, 30:200] = np.nan
    params, found = fitted(rate, exposure, 1, every_pixel=True)
    windows = cells(exposure, params)
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        medians = [np.nanmedian(rate[w.slices].astype(np.float32)) for w in windows]
    np.testing.assert_array_equal(found["coefs"], fit_sky(medians, 1, exposure))
    assert (found["cells"], found["pixels"]) == (10, np.isnan(rate[4:252, 4:252]).sum())
    found = fitted(rate, exposure, 1)[1]
    assert found["cells"] == 10  # covered


def test_every_pixel_counts_what_is_infinite(exposure):
    rate = surface([2.0, 0.3, -0.7], 1).astype(np.float32)
    dq = np.zeros(rate.shape, np.uint32)
    rate[4:20, 4:20], dq[4:20, 4:20] = np.inf, 1
    (first, *_) = cells(exposure, SkyParams(order=1))
    values = rate[first.slices]
    found = measure_cell(values, dq[first.slices], params=SkyParams(order=1, every_pixel=True))
    assert found == (np.median(values), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_costs_no_cell(bad, exposure):
    """One in every cell: without it, the same median to a few parts in the noise."""
    rng = np.random.default_rng(5)
    rate = (surface([2.0, 0.3, -0.7], 1) + rng.normal(0, 0.01, (256, 256))).astype(np.float32)
    good = fitted(rate, exposure, 1)[1]
    for w in cells(exposure, SkyParams(order=1)):
        rate[w.y0 + 3, w.x0 + 5] = bad
    found = fitted(rate, exposure, 1)[1]
    np.testing.assert_allclose(found["coefs"], good["coefs"], atol=3e-4)
    assert (found["pixels"], found["cells"]) == (64, 0)


def test_pixels_that_are_not_to_be_used_do_not_count(exposure):
    rate = surface([2.0, 0.3, -0.7], 1)
    dq = np.zeros(rate.shape, np.uint32)
    rate[4:25, 4:252], dq[4:25, 4:252] = 1e4, 3  # more than half of the first row of cells
    rate[110:120, 110:120], dq[110:120, 110:120] = 2e4, 2  # saturated, but usable
    truth = [2.0, 0.3, -0.7]
    found = fitted(rate, exposure, 1, dq)[1]
    assert found["pixels"] == 21 * 248
    without = fitted(np.where(dq == 3, np.nan, rate), exposure, 1)[1]
    np.testing.assert_array_equal(found["coefs"], without["coefs"])
    assert abs(found["coefs"] - truth).max() < 0.1
    assert abs(fitted(rate, exposure, 1, dq, every_pixel=True)[1]["coefs"] - truth).max() > 100


@pytest.mark.parametrize("cells_left", [0, 2, 8])
def test_too_few_cells_subtract_nothing(cells_left, exposure, run_step, window):
    """A row of eight cells does not tell a plane's slope across the row."""
    rate = np.full((256, 256), np.nan, np.float32)
    rate[4:35, 4 : 4 + 31 * cells_left] = 3
    params, found = fitted(rate, exposure, 1)
    assert (len(found["coefs"]), found["cells"]) == (0, 64 - cells_left)
    data = run_step(step, exposure, window, {"rate": rate}, params, found)["data"]
    np.testing.assert_array_equal(data, rate[window.slices])
    if cells_left:
        assert fitted(rate, exposure, 0)[1]["coefs"] == pytest.approx([3])


@pytest.mark.parametrize("order", [-1, 8, 10, 1000, 1.5])
def test_orders_that_the_cells_cannot_carry(order):
    with pytest.raises(ValidationError, match="order"):
        SkyParams(order=order)


def test_the_greatest_order_is_told_apart_by_the_cells(exposure):
    """Every term of it, and not those of the next one."""
    for order, enough in ((MAX_ORDER, True), (MAX_ORDER + 1, False)):
        coefs = np.arange(1.0, (order + 1) * (order + 2) / 2 + 1)
        image = surface(coefs, order)
        medians = [
            image[(w.y0 + w.y1) // 2, (w.x0 + w.x1) // 2]
            for w in cells(exposure, SkyParams(order=0))
        ]
        found = fit_sky(medians, order, exposure)
        np.testing.assert_allclose((np.abs(found - coefs) < 1e-6).all(), enough)


def test_no_order_no_sky(exposure, run_step, window):
    rate = np.random.default_rng(2).normal(1, 1, (256, 256)).astype(np.float32)
    params, found = fitted(rate, exposure, None)
    assert found["coefs"].size == 0
    data = run_step(step, exposure, window, {"rate": rate}, params, found)["data"]
    np.testing.assert_array_equal(data, rate[window.slices], strict=True)


# -- mode ----------------------------------------------------------------------------------------


def mode(rate, mask):
    """algorithms.md in whole-array NumPy."""
    ny, nx = rate.shape[0] // 4, rate.shape[1] // 4
    blocks = [
        rate[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].astype(float).mean()
        for i, j in np.ndindex(ny, nx)
        if not mask[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].any()
    ]
    blocks = np.array(blocks)
    centre = np.median(blocks)
    sigma = np.subtract(*np.quantile(blocks, [0.75, 0.25])) / 1.34898
    for _ in range(3):
        x = np.linspace(centre - sigma, centre + sigma, 21)[1:-1]
        h = np.exp(-0.5 * ((blocks[:, None] - x) / (0.5 * sigma)) ** 2).sum(axis=0)
        i = np.clip(h.argmax(), 1, 17)
        a, b, _ = np.polyfit(x[i - 1 : i + 2] - x[i], h[i - 1 : i + 2], 2)
        centre = x[i] - b / (2 * a)
    return centre


def found_mode(rate, mask):
    return background_mode(binned(rate, mask))


@pytest.mark.parametrize("shape", [(248, 248), (121, 90)])
def test_mode_of_a_skewed_background(shape):
    rng = np.random.default_rng(41)
    rate = rng.normal(0.5, 0.2, shape) + rng.exponential(0.05, shape)
    rate[rng.random(shape) < 0.003] += 50
    mask = rng.random(shape) < 0.02
    rate = rate.astype(np.float32)
    assert found_mode(rate, mask) == pytest.approx(mode(rate, mask), abs=1e-8)


def test_mode_of_a_gaussian_background():
    """Stars and masked pixels do not pull it; the median of the same image is off."""
    rng = np.random.default_rng(43)
    rate = rng.normal(0.5, 0.2, (512, 512)).astype(np.float32)
    mask = np.zeros(rate.shape, bool)
    for y, x in rng.integers(0, 500, (400, 2)):
        rate[y : y + 6, x : x + 6] += rng.exponential(1)
    mask[100:130, 100:200] = True
    rate[mask] = 1e6
    found = found_mode(rate, mask)
    # 0.2 / 4 after binning, 16384 blocks, smoothing and contamination
    assert found == pytest.approx(0.5, abs=0.005)
    assert abs(np.median(rate) - 0.5) > 2 * abs(found - 0.5)


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_mode_follows_shift_and_scale(shift, scale):
    rate = np.random.default_rng(47).gamma(4, 1, (64, 64))
    mask = np.zeros(rate.shape, bool)
    expected = shift + scale * found_mode(rate, mask)
    assert found_mode(shift + scale * rate, mask) == pytest.approx(expected, abs=1e-6 * scale)


def test_mode_of_little_or_nothing():
    rate = np.full((64, 64), 3.0, np.float32)
    mask = np.zeros(rate.shape, bool)
    assert found_mode(rate, mask) == 3
    assert np.isnan(found_mode(rate, ~mask))
    rate[:8] = np.nan
    assert found_mode(rate, mask) == 3
    rate[:] = np.nan
    assert np.isnan(found_mode(rate, mask))


@pytest.mark.parametrize("side", [256, 640, 2048, 4096])
def test_mode_sees_the_active_array(side, exposure):
    """In bands that no block of 4 x 4 pixels crosses."""
    windows = bands(dataclasses.replace(exposure, side=side), medsky.params())
    assert all((w.x0, w.x1) == (4, side - 4) and (w.y0 - 4) % 4 == 0 for w in windows)
    assert [w.y0 for w in windows] == [4, *(w.y1 for w in windows[:-1])]
    assert windows[-1].y1 == side - 4
    rate = np.random.default_rng(61).normal(1, 0.2, (side, side)).astype(np.float32)
    mask = np.random.default_rng(67).random(rate.shape) < 0.02
    given = {"tile": Tile(windows[0], side), "params": medsky.params()}
    partials = [measure_background(rate[w.slices], mask=mask[w.slices], **given) for w in windows]
    active = np.s_[4:-4, 4:-4]
    assert find_mode(partials)["medsky"] == found_mode(rate[active], mask[active])


def bordered(rate, dq):
    """The background's mode with a border of zeros, in whole-array NumPy and scipy."""
    whole = np.zeros(rate.shape)
    whole[4:-4, 4:-4] = rate[4:-4, 4:-4]
    mask = np.zeros(rate.shape, bool)
    for name, n in MASK_GROWTH.items():
        shape = {1: np.ones((1, 1)), 5: ndimage.generate_binary_structure(2, 1)}
        shape |= {9: np.ones((3, 3)), 25: np.ones((5, 5))}
        mask |= ndimage.binary_dilation(dq & PIXEL[name] != 0, shape[n])
    return mode(whole, mask)


def test_mode_with_the_border(exposure, run_step):
    """Where no flag masks them, reference pixels count as rates of 0; flags of theirs grow into the
    active array, and its flags onto the border."""
    rng = np.random.default_rng(53)
    rate = (rng.normal(0.05, 0.2, (256, 256)) + rng.exponential(0.05, (256, 256))).astype(
        np.float32
    )
    rate[:4] = rate[:, -4:] = 77  # what the border holds does not matter
    dq = np.zeros(rate.shape, np.uint32)
    dq[rng.random(dq.shape) < 0.02] = PIXEL["HOT"]
    dq[:, 252] = PIXEL["DROPOUT"]
    dq[:4] |= np.uint32(PIXEL["REFERENCE_PIXEL"])  # masks nothing
    params = medsky.params(border=True)
    (window,) = bands(exposure, params)
    assert window == (0, 256, 0, 256)
    assert medsky.reduction.reads_for(params) == ("rate", "dq")
    tile = Tile(window, 256)
    values = measure_background(rate, dq=dq, tile=tile, params=params)
    found = background_mode(values)
    assert found == pytest.approx(bordered(rate, dq), abs=1e-8)
    active = found_mode(rate[4:-4, 4:-4], grown_mask(dq[4:-4, 4:-4], params.growth))
    assert abs(found - active) > 1e-5


def test_only_the_recipes_of_the_package_count_the_border():
    wanted = {
        name: [b.params.border for b in load_recipe(name).steps if b.name == "medsky"]
        for name in (
            "l1_to_l2", "l1_to_l2_likelihood", "romanimpreprocess_1.0",
            "romanimpreprocess_1.0_likelihood",
        )
    }  # fmt: skip
    assert list(wanted.values()) == [[False], [False], [True], [True]]


@pytest.mark.parametrize("window", [Window(0, 256, 0, 256), Window(37, 101, 3, 250)])
def test_the_image_of_the_model(window):
    """Sum of products of Legendre polynomials, rounded once; the same where it is subtracted."""
    order, side = 3, 256
    coefs = np.random.default_rng(5).normal(size=len(terms(order)))
    y, x = np.mgrid[window.slices]
    u, v = (2 * (a - 4) / (side - 8) - 1 for a in (x, y))
    expected = sum(
        c * legendre.legval(u, np.eye(i + 1)[i]) * legendre.legval(v, np.eye(j + 1)[j])
        for c, (i, j) in zip(coefs, terms(order), strict=True)
    )
    image = sky_image(coefs, order, window, side)
    np.testing.assert_allclose(image, expected, rtol=1e-6, atol=1e-6)
    model = sky_model(coefs, order, window, side).astype(np.float32)
    np.testing.assert_array_equal(image, model)
    rate = np.full(window.shape, 1.5, np.float32)
    subtracted = subtract_model(rate, coefs, order, window, side)
    np.testing.assert_array_equal(subtracted, rate - model)
