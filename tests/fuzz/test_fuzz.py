"""Whatever the files and the configuration hold: an image that is valid, or one line for each
problem. Never a traceback, a hang, a value that is not finite and not flagged, a file left behind.

A failing case ends with ``edits=[...]``; `test_found.py` keeps such as have been found.
"""

from __future__ import annotations

import os

from checks import check
from edits import (
    FILES,
    configurations,
    damages,
    exposures,
    pixels,
    settings_that_run,
    trees,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ", "300"))
"""Number of cases in all; without FUZZ they are always the same."""


def cases(share: float):
    """Settings for a part of all cases."""
    return settings(
        max_examples=max(int(CASES * share), 1),
        derandomize="FUZZ" not in os.environ,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def drawn(data, strategy, most: int = 3) -> list[tuple]:
    return data.draw(st.lists(strategy, min_size=1, max_size=most), label="edits")


def test_the_exposure_is_good(exposure):
    assert check(exposure, [], run=False) == 0
    assert check(exposure, [], run=True) == 0


@cases(0.20)
@given(st.data())
def test_configurations(exposure, data):
    check(exposure, drawn(data, configurations(exposure)), run=False)


@cases(0.22)
@given(st.data())
def test_exposures(exposure, data):
    check(exposure, drawn(data, trees(exposure, "l1")), run=False)


@cases(0.36)
@given(st.data())
def test_references(exposure, data):
    key = data.draw(st.sampled_from(FILES[1:]))
    check(exposure, drawn(data, trees(exposure, key)), run=False)


@cases(0.14)
@given(st.data())
def test_damaged_files(exposure, data):
    key = data.draw(st.sampled_from(FILES))
    check(exposure, drawn(data, damages(key), 2), run=False)


@cases(0.035)
@given(st.data())
def test_runs_with_odd_pixels(exposure, data):
    check(exposure, drawn(data, pixels(exposure)), run=True)


@cases(0.015)
@given(st.data())
def test_runs_with_odd_settings(exposure, data):
    check(exposure, drawn(data, settings_that_run()), run=True)


@cases(0.01)
@given(st.data())
def test_runs_with_odd_exposures(exposure, data):
    check(exposure, drawn(data, exposures(exposure)), run=True)


@cases(0.02)
@given(st.data())
def test_runs_with_odd_trees(exposure, data):
    key = data.draw(st.sampled_from(FILES))
    check(exposure, drawn(data, trees(exposure, key)), run=True)
