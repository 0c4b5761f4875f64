"""Whatever the files and the configuration hold: an image that is valid, or one line for each
problem. Never a traceback, a hang, a value that is not finite and not flagged, a file left behind.

A failing case ends with ``edits=[...]``; `test_found.py` keeps such as have been found.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import signal
import warnings

import numpy as np
import pytest
from asdf_files import AsdfFile
from edits import (
    FILES,
    Exposure,
    configurations,
    damages,
    exposures,
    flattened,
    pixels,
    settings_that_run,
    trees,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from roman_dask_l2.cli import main
from roman_dask_l2.dq import PIXEL
from roman_dask_l2.job import find_problems
from roman_dask_l2.simulate import simulate

CASES = int(os.environ.get("FUZZ", "2000"))
"""Number of cases in all; without FUZZ they are always the same."""
LIMIT = 30
"""Seconds for each."""


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


class TooLong(BaseException):
    """A case has not ended within its time."""


@contextlib.contextmanager
def limited():
    """Raise after LIMIT seconds; end the process if that does not help."""

    def stop(*_):
        raise TooLong(f"not finished after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    faulthandler.dump_traceback_later(3 * LIMIT, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def called(*arguments: str) -> tuple[int, list[str]]:
    """Status and lines on standard error of the command line."""
    said = io.StringIO()
    with (
        limited(),
        warnings.catch_warnings(),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        status = main(list(arguments))
    logging.getLogger("roman_dask_l2").handlers.clear()
    return status, said.getvalue().splitlines()


def validated(exposure: Exposure) -> tuple[int, list[str]]:
    """As ``roman-dask-l2 validate``, without what takes most of its time: the command line, YAML."""
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problems = find_problems(exposure.absolute)
    return 2 if problems else 0, [f"roman-dask-l2: error: {line}" for line in problems]


def listing(exposure: Exposure) -> set:
    return {p for p in exposure.folder.rglob("*") if p.name != "config.yaml"}


def check(exposure: Exposure, edits: list[tuple], *, run: bool) -> int:
    """Make an edited exposure, validate or calibrate it; what it became must be one or the other."""
    edits = flattened(edits)
    config = exposure.make(edits)
    before = listing(exposure)
    if run:
        how = ["--quiet", "--scheduler", "synchronous", "--tile", "256", "--no-noise"]
        status, lines = called("run", str(config), *how)
    elif any(edit[0].startswith("config") for edit in edits):
        status, lines = called("validate", str(config), "--quiet")
    else:
        status, lines = validated(exposure)
    new = listing(exposure) - before
    try:
        assert status in (0, 2), f"status {status}: {lines}"
        if status == 2:
            assert lines
            errors = [line for line in lines if line.startswith("roman-dask-l2: error: ")]
            assert errors == lines[-len(errors) :], lines
            assert all(len(line) < 2000 for line in lines), lines
            assert not new
        elif run:
            assert not [p for p in new if p.name.startswith(".")]
            (l2,) = [p for p in new if p.suffix == ".asdf"]
            check_image(l2)
        else:
            assert not new
    finally:
        for path in new:
            path.unlink()
    return status


def check_image(path) -> None:
    """A file whose values are finite or flagged."""
    file = AsdfFile(path)
    images = {name: file.array("roman", name) for name in ("data", "data_withsky", "err", "dq")}
    usable = images["dq"] & np.uint32(PIXEL["DO_NOT_USE"]) == 0
    for name in ("data", "data_withsky", "err"):
        assert images[name].shape == images["dq"].shape
        bad = ~np.isfinite(images[name]) & usable
        assert not bad.any(), f"{name}: {bad.sum()} pixels are not finite and not DO_NOT_USE"


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    made = simulate(
        folder / "whole", side=256, seed=3, conditions="plain", cosmic_rays=0, stars=0,
        dark_decay=True, extra_plane=False,
    )  # fmt: skip
    return Exposure(made, folder / "edited")


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
