"""Equal digits in a column, round ticks on an axis."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from roman_dask_l2.report.digits import counting_axis, number_axis, same_digits, time_axis


@pytest.mark.parametrize(
    ("values", "significant", "shown"),
    [
        ([0.4, 0.398, 1.25], 4, ["0.4000", "0.3980", "1.2500"]),
        ([0.4, None, math.nan, -1e-9], 4, ["0.4000", "-", "-", "0.0000"]),
        ([4.0, 4.5, 5e4], 3, ["4.0", "4.5", "50000.0"]),
        ([123.4, 99999.0], 3, ["123", "99999"]),
        ([1e-6, 12345.0, 1e-6], 3, ["0.0", "12345.0", "0.0"]),
        ([0.0, 0.0], 3, ["0", "0"]),
        ([-0.047, 0.0471], 3, ["-0.0470", "0.0471"]),
        ([None], 3, ["-"]),
        ([], 3, []),
    ],
)
def test_a_column_has_equal_digits(values, significant, shown):
    assert same_digits(values, significant) == shown


@pytest.mark.parametrize(
    ("low", "high", "ticks", "label"),
    [
        (0.379, 0.421, ["0.38", "0.39", "0.40", "0.41", "0.42"], "sky (DN/s)"),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"], "sky (DN/s)"),
        (-3, 4, ["-2", "0", "2", "4"], "sky (DN/s)"),
        (0, 5.1e-7, ["0", "1", "2", "3", "4", "5"], "sky (1e-7 DN/s)"),
        (1e7, 1.2e7, ["1.00", "1.05", "1.10", "1.15", "1.20"], "sky (1e7 DN/s)"),
    ],
)
def test_ticks_of_numbers(low, high, ticks, label):
    axis = number_axis(low, high, "sky", "DN/s")
    assert [text for _, text in axis.ticks] == ticks
    assert axis.label == label
    power = float(label[5:].split()[0].replace("(", "")) if "1e" in label else 1.0
    for value, text in axis.ticks:
        assert value == pytest.approx(float(text) * power, abs=1e-9 * power)
        assert low - 1e-9 * abs(low) <= value <= high * (1 + 1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 54, 1800, 100_000])
def test_ticks_of_counts(n):
    axis = counting_axis(n, "exposure")
    assert axis.low < 1
    assert axis.high > n
    assert 1 <= len(axis.ticks) <= 7
    assert all(value == int(text) for value, text in axis.ticks)


@pytest.mark.parametrize("span", [2, 140, 4000, 80_000, 90_000, 300_000, 600_000, 3e7, 2e8])
def test_ticks_of_times(span):
    begin = datetime(2027, 6, 1, 23, 59, 30, tzinfo=UTC)
    axis = time_axis([begin.timestamp() + span, begin.timestamp()], "start (UTC)")
    assert 2 <= len(axis.ticks) <= 6
    assert axis.label.startswith("start (UTC), 2027-06-01")
    of_five = "%m-%d" if "-" in axis.ticks[0][1] else "%H:%M"
    forms = {5: of_five, 8: "%H:%M:%S", 10: "%Y-%m-%d", 11: "%m-%d %H:%M"}
    for value, text in axis.ticks:
        assert axis.low <= value <= axis.high
        assert datetime.fromtimestamp(value, UTC).strftime(forms[len(text)]) == text
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)
    assert sum(len(text) + 1 for _, text in axis.ticks) < 40
