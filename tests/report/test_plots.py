"""What plots and pages look like, as far as a program can tell."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.report import page as pages
from roman_dask_l2.report import plots, ramp_sections
from roman_dask_l2.report.blocks import KINDS, kind_counts, percent
from roman_dask_l2.report.image_scan import open_image, scan_image
from roman_dask_l2.report.panels import flag_handles
from roman_dask_l2.report.replay import Ramp


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (0, "0 %"), (1, "100 %"), (0.9821, "98.2 %"), (0.0157839, "1.58 %"), (1e-3, "0.100 %"),
        (4.55e-5, "0.00455 %"), (1.01e-5, "0.00101 %"), (9.9e-6, "< 0.001 %"), (1e-9, "< 0.001 %"),
    ],
)  # fmt: skip
def test_three_digits(part, text):
    assert percent(part) == text
    assert pages._is_number(text)


def test_legend_of_flags_has_counts():
    """Few pixels are not told to be none."""
    seen = {PIXEL["HOT"]: 30, PIXEL["JUMP_DET"]: 1257, PIXEL["JUMP_DET"] | PIXEL["DEAD"]: 17}
    labels = [h.get_label() for h in flag_handles(kind_counts(seen, 1_032_256), 1_032_256)]
    assert "hot, dead, etc.: 47, 0.00455 %" in labels
    assert "jump: 1274, 0.123 %" in labels
    assert "none: 1030952, 99.9 %" in labels
    assert "other: 0, 0 %" in labels


def test_bars_end_in_arrows_only_where_there_is_more():
    cells = np.linspace(-1, 1, 100).reshape(10, 10)
    edges = np.arange(11)
    inside = plots.sky_model(cells, 1.0, 2)
    assert inside.axes[1]._colorbar.extend == "neither"
    cells[0, 0] = 50
    assert plots.sky_residual(cells, edges, "x", 0).axes[1]._colorbar.extend == "max"
    cells[9, 9] = -50
    cells[5, 5] = np.nan
    assert plots.sky_residual(cells, edges, "x", 0).axes[1]._colorbar.extend == "both"


def test_rows_are_not_smeared():
    figure = plots.reference_rows(np.random.default_rng(1).normal(size=(8, 256)))
    assert figure.axes[0].images[0].get_interpolation() == "nearest"


def test_medians_of_ramps_that_do_not_saturate(exposure_with_noise):
    """Where ramps begin to saturate, pixels lie on several branches, and medians between them."""
    l2 = open_image(exposure_with_noise.l2)
    seen = scan_image(l2)
    saturated = seen.errors - seen.full
    assert (saturated >= 0).all()
    assert 0 < saturated.sum() <= seen.count("SATURATED")
    middle, medians = plots._medians(seen.full)
    rate = np.linspace(0, 1, 5)
    curve = np.array([10.0**rate, 10.0**rate])
    figure = plots.error(seen, curve, [curve], 0.4)
    (drawn,) = [line for line in figure.axes[0].lines if line.get_label() == "median, unsaturated"]
    np.testing.assert_array_equal(drawn.get_data(), (middle, medians))


def test_a_hot_pixel_is_not_flattened_by_its_dark_current(exposure):
    n = exposure.n_resultants
    signal, dark = np.linspace(0, 80, n), np.linspace(0, 1e4, n)
    hot = Ramp("hot", 3, 4, signal, np.zeros(n, np.uint8), 0.8, n, dark)
    above, below = plots.ramp(hot, exposure).axes
    assert above.get_ylim()[1] > 9e3
    assert below.get_ylim()[1] < 100
    normal = Ramp("normal", 3, 4, signal, np.zeros(n, np.uint8), 0.8, n, dark)
    assert len(plots.ramp(normal, exposure).axes) == 1


@pytest.mark.parametrize("turned", [0, 30, 45, 200])
def test_corners_are_named_outside(turned):
    a = np.radians(turned + 45 + 90 * np.arange(5))
    outline = np.array([np.cos(a), np.sin(a)])
    ax = plots.footprint(outline, outline[:, :4], (35.0, -28.0)).axes[0]
    assert len(ax.texts) == 4
    for text in ax.texts:
        place = np.array(text.xy)
        assert np.hypot(*place) > 1.15
        assert (np.abs(place) < np.abs(ax.get_xlim()[0])).all()


def test_colours_of_pictures_are_kept(drawn):
    """256 of them: every kind of flag, be it one pixel in a million, has its own."""
    side = 500
    kinds = np.zeros((side, side), np.uint8)
    for i in range(len(KINDS)):
        kinds[20 + 50 * i, 30] = i + 1
    seen = SimpleNamespace(k=2, kinds=kinds)
    counts = [side**2 - len(KINDS), *(1 for _ in KINDS)]
    with drawn():
        png = pages._png(plots.flags(seen, counts, side**2))
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "P"
    colours = np.unique(np.array(picture.convert("RGB")).reshape(-1, 3), axis=0).astype(int)
    for _, colour, _ in KINDS:
        wanted = np.round(255 * np.array(to_rgb(colour)))
        assert np.abs(colours - wanted).max(axis=1).min() <= 2


def test_pictures_leave_no_gaps():
    columns = {n: pages._columns(n) for n in range(1, 13)}
    assert {n: c for n, c in columns.items() if n % c} == {5: 3, 7: 3, 11: 3}
    assert columns[4] == 2
    assert max(columns.values()) == 3


def test_the_reader_is_told_of_enlarging_first():
    page = pages.Page("x")
    page.section("a", "A")
    with page.beside():
        page.text("left")
        page.text("right")
        page.text("below it")
    html = page.html()
    assert html.index("to enlarge it") < html.index("<h2")
    row = r'<div class="row"><div><p>left</p></div><div><p>right</p><p>below it</p></div></div>'
    assert re.search(row, html)


@pytest.mark.parametrize(("marks", "said"), [((3,), ""), ((2, 3), "has 2 marks"), ((), "")])
def test_several_marks_of_one_cosmic_ray_are_explained(marks, said):
    flags = np.zeros(8, np.uint8)
    flags[list(marks)] = GROUP["JUMP_DET"]
    one = Ramp("cosmic ray", 10, 20, np.arange(8.0), flags, 1.0, 8)
    text = ramp_sections._what_was_used(one)
    assert said in text
    assert bool(text) == bool(said)
