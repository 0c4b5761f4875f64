"""Pixel read times, against a readout played clock by clock."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.pixel_times import CLOCK_PERIOD, pixel_times
from roman_dask_l2.errors import InputError

FRAME = 3.16247


def played(detector_number, side, frame_time):
    """Walk through the readout in order, pixel after pixel, channel after channel."""
    last = 127 + (side - 1) * 142
    readouts = len(range(0, side, 256))
    guide = 1.5 * (frame_time / CLOCK_PERIOD - last) / readouts
    times = np.zeros((side, side))
    clock = 0.0
    for row in range(side):
        for col in range(128):
            for channel in range(side // 128):
                at = 127 - col if channel % 2 else col
                times[row, 128 * channel + at] = clock + col
        clock += 142
        if row % 256 == 255:
            clock += guide
    times *= frame_time / (times.max() + guide)
    return times[:, ::-1] if detector_number % 3 == 0 else times[::-1]


@pytest.mark.parametrize(("side", "frame_time"), [(256, 0.25), (384, 0.3), (768, 0.6)])
@pytest.mark.parametrize("number", [1, 2, 18])
def test_follows_the_readout(number, side, frame_time):
    expected = played(number, side, frame_time)
    times = pixel_times(number, side, frame_time, Window(0, side, 0, side))
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, rtol=1e-13, atol=1e-16)


def test_flight_values():
    """Numbers worked out by hand, which romanimpreprocess 1.0.0 agrees with to 3e-7 s."""
    side = 4096
    leftover = FRAME / CLOCK_PERIOD - 581617
    guide = 1.5 * leftover / 16
    second = FRAME / (581617 + 16 * guide)
    times = pixel_times(18, side, FRAME, Window(0, side, 0, side))
    assert times.min() == 0
    assert times.max() == pytest.approx(FRAME - second * guide, rel=1e-14)
    assert times.max() == pytest.approx(3.1353052, abs=1e-7)
    # columns reversed: readout row 300, channel 31 (odd, backwards), its pixel 1
    assert times[300, 1] == pytest.approx(second * (300 * 142 + 1 + guide), rel=1e-14)
    # rows reversed: science row 300 is readout row 3795; channel 1 runs backwards
    times = pixel_times(1, side, FRAME, Window(300, 301, 128, 130))
    assert times[0, 1] == pytest.approx(second * (3795 * 142 + 126 + 14 * guide), rel=1e-14)


@pytest.mark.parametrize("number", [4, 6])
def test_same_bits_through_any_window(number):
    whole = pixel_times(number, 768, 0.6, Window(0, 768, 0, 768))
    for window in (Window(0, 1, 0, 768), Window(250, 263, 3, 131), Window(511, 768, 100, 101)):
        np.testing.assert_array_equal(
            pixel_times(number, 768, 0.6, window), whole[window.slices], strict=True
        )


def test_too_short_a_frame_is_refused():
    with pytest.raises(InputError, match=r"too short.*2\.85"):
        pixel_times(1, 4096, 2.5, Window(0, 1, 0, 1))
