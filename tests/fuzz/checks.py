"""What an edited exposure must become, and how it is tried."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import signal
import warnings

import numpy as np
from asdf_files import AsdfFile
from edits import Exposure, flattened

from roman_dask_l2.cli.app import main
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.products.validation import find_problems

LIMIT = 30
"""Seconds for each case."""


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
    """As ``roman-dask-l2 validate``, without what takes most of its time: arguments and YAML."""
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problems = find_problems(exposure.absolute)
    return 2 if problems else 0, [f"roman-dask-l2: error: {line}" for line in problems]


def listing(exposure: Exposure) -> set:
    return {p for p in exposure.folder.rglob("*") if p.name != "config.yaml"}


def check(exposure: Exposure, edits: list[tuple], *, run: bool) -> int:
    """Make an edited exposure, validate or calibrate it: it is refused, or its image is valid."""
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
