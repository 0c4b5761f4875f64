"""Reports of exposures whose ramp fit takes cosmic rays out of the ramps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.dq import GROUP
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.report import plots, replay
from roman_dask_l2.report.exposure import exposure_report
from roman_dask_l2.report.facts import gather
from roman_dask_l2.report.image_scan import open_image

RECIPE = Path(__file__).parents[2] / "graphs" / "l1_to_l2_likelihood.yaml"
OPTIONS = "ramp_fit_likelihood: {"
DNU, SAT, JUMP = (GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET"))


@pytest.fixture(scope="module")
def calibrated(simulated, tmp_path_factory):
    """``calibrated(changes to the recipe's text)``: the image of one exposure."""

    def make(*changes):
        folder = tmp_path_factory.mktemp("likelihood")
        text = RECIPE.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / "recipe.yaml").write_text(text)
        config = load_config(simulated(seed=5, side=512).config)
        recipe = str(folder / "recipe.yaml") if changes else "l1_to_l2_likelihood"
        return calibrate(config.replace(GRAPH=recipe, OUT=str(folder / "l2.asdf"))).out

    return make


@pytest.fixture(scope="module")
def image(calibrated):
    return calibrated()


def test_page(image, plots, check_page, tmp_path, drawn):
    with plots() as figures, drawn():
        page = check_page(exposure_report(image, tmp_path / "r.html"))
    ramps = {f"ramp_{kind.replace(' ', '_')}" for kind in replay.KINDS}
    assert {*ramps, "error_rate", "chi_square", "jump_times"} <= set(figures)
    for text in ("is taken out (dashed)", "Such a pixel stays usable", "taken out as a jump.",
                 "In every pixel the flags are those of the file", "covariance of the differences",
                 "6 of 7 differences are used."):  # fmt: skip
        assert text in page.text
    for text in ("not removed from the fit", "Not shown", "no curve can be predicted"):
        assert text not in page.text
    lines = [line.get_label() for line in figures["ramp_cosmic_ray"].axes[0].lines]
    assert "jump, taken out" in lines
    assert "jump follows" not in lines


def test_expected_errors_are_those_of_the_image(image, plots, tmp_path):
    """The curve goes through the medians of pixels that do not saturate."""
    with plots() as figures:
        exposure_report(image, tmp_path / "r.html")
    lines = {line.get_label(): line.get_data() for line in figures["error_rate"].axes[0].lines}
    rates, medians = lines["median, unsaturated"]
    assert len(rates) > 3
    expected = np.interp(np.log(rates), np.log(lines["expected"][0]), lines["expected"][1])
    np.testing.assert_allclose(medians, expected, rtol=0.12)


def test_the_ramp_of_a_cosmic_ray(image):
    facts = gather(open_image(image), None)
    assert facts.replay.takes_out_jumps
    ramps = {ramp.kind: ramp for ramp in facts.ramps}
    assert set(ramps) == set(replay.KINDS)
    hit, normal = ramps["cosmic ray"], ramps["normal"]
    assert hit.dropped.any()
    assert (hit.unused | ~hit.dropped).all()
    assert not normal.dropped.any()
    exposure = facts.l2.exposure
    rates = np.diff(hit.signal) / np.diff(exposure.tbar)
    used = ~hit.unused
    assert rates[used].min() <= hit.rate <= rates[used].max()
    assert normal.unused.tolist() == [True] + [False] * 6  # the first resultant
    assert facts.jumps.differ == 0
    assert facts.jumps.counts.sum() > 50
    assert facts.jumps.counts[0] == 0


def test_whichever_resultant_is_flagged(image, calibrated):
    """The jumps are the same ones, at the same time; and it is said if they are masked."""
    before = calibrated(
        (OPTIONS, OPTIONS + "flag_resultant: before, chisq: sum, "),
        ("DO_NOT_USE: 1,", "DO_NOT_USE: 1, JUMP_DET: 5,"),
    )
    one, two = (gather(open_image(path), None) for path in (image, before))
    np.testing.assert_array_equal(one.jumps.counts, two.jumps.counts)
    assert two.jumps.differ == 0
    assert one.chi_square is not None
    assert two.chi_square is None  # not per degree of freedom
    text = exposure_report(before).read_text()
    assert "masks such a pixel nevertheless" in text
    assert "stays usable" not in text


def ramp_of(exposure, unused, dropped=(), flags=None):
    n = exposure.n_resultants
    signal = 2.0 * exposure.tbar
    for i in dropped:
        signal[i + 1 :] += 300.0
    at = np.arange(n - 1)
    flags = np.zeros(n, np.uint8) if flags is None else np.array(flags, np.uint8)
    end = int(np.argmax(flags & SAT != 0)) if (flags & SAT).any() else n
    return replay.Ramp("cosmic ray", 3, 4, signal, flags, 2.0, end,
                       unused=np.isin(at, unused), dropped=np.isin(at, dropped))  # fmt: skip


@pytest.mark.parametrize(
    ("unused", "segments"),
    [
        ([], [[0, 1, 2, 3, 4, 5]]),
        ([0], [[1, 2, 3, 4, 5]]),
        ([0, 2], [[1, 2], [3, 4, 5]]),
        ([1, 2], [[0, 1], [3, 4, 5]]),
        ([0, 4], [[1, 2, 3, 4]]),
        ([0, 1, 2, 3, 4], []),
    ],
)
def test_a_line_for_every_segment(exposure, unused, segments):
    jumps = [i for i in unused if i > 0]
    one = ramp_of(exposure, unused, jumps)
    assert [part.tolist() for part in one.segments()] == segments
    ax = plots.ramp(one, exposure).axes[0]
    lines = [line for line in ax.lines if line.get_color() == plots.RED]
    assert len(lines) == len(segments)
    for line, part in zip(lines, segments, strict=True):
        # The signal has the fitted slope between the jumps: the lines go through the points.
        np.testing.assert_allclose(line.get_data(), [exposure.tbar[part], one.signal[part]])
    taken = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata().tolist() for line in taken] == [
        exposure.tbar[i : i + 2].tolist() for i in jumps
    ]
    (points,) = [line for line in ax.lines if line.get_label() == "used"]
    assert len(points.get_xdata()) == sum(map(len, segments))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels.count("fit: 2 DN/s") == bool(segments)
    assert labels.count("jump, taken out") == bool(jumps)


def test_what_flags_take_out_is_no_jump(exposure):
    one = ramp_of(exposure, [0, 3, 4], flags=[DNU, 0, 0, 0, SAT, SAT])
    ax = plots.ramp(one, exposure).axes[0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["used", "not used", "saturated", "fit: 2 DN/s"]


def test_differences_that_were_taken_out_are_the_intervals():
    steps = np.array([0.0, 1, 2, 30, 20, 1, 90])
    dropped = np.zeros(7, bool)
    assert replay.jump_intervals(dropped, steps, 0) == []
    dropped[[3, 4, 6]] = True
    assert replay.jump_intervals(dropped, steps, 0) == [3, 6]
    dropped[3] = False  # the larger one beside it is not a jump that was taken out
    assert replay.jump_intervals(dropped, steps, 0) == [4, 6]
