"""The demonstration with odd files: what a calibration of each of them becomes."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asdf
import numpy as np

from ..config.model import load_config
from ..core.detector import BORDER
from ..core.dq import PIXEL
from ..errors import InputError
from ..products.validation import find_problems
from ..report.odd_expected import Became, Image, unexpected, wrong_image
from ..simulation.odd import ODD, SIMULATED, apply, linked, simulate_odd, truth_at
from ..simulation.settings import Simulation

log = logging.getLogger(__name__)

LIMIT = 60.0
"""Seconds that a case may take."""
_SHOWN = 72


@dataclass(frozen=True)
class Outcome:
    """A case of the table.

    Attributes
    ----------
    name : str
    status : int
    what : str
        The message, or the flags of the odd pixel.
    flagged : str
        Number of flagged pixels.
    rate : str
        At the odd pixel, with its error and the truth, DN/s.
    wrong : tuple of str
        All that is not as expected.
    """

    name: str
    status: int
    what: str
    flagged: str = ""
    rate: str = ""
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.wrong


@dataclass
class OddReport:
    """What all cases became."""

    outcomes: list[Outcome]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all is as expected."""
        return all(outcome.ok for outcome in self.outcomes)

    def lines(self) -> list[str]:
        """The table, for people."""
        rows = [("case", "status", "flagged", "rate (truth)", "", "what it became")]
        rows += [
            (o.name, str(o.status), o.flagged, o.rate, "ok" if o.ok else "NOT AS EXPECTED", o.what)
            for o in self.outcomes
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        failed = [o for o in self.outcomes if not o.ok]
        return [
            *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
            "",
            *(f"{o.name} ({ODD[o.name].what}): {line}" for o in failed for line in o.wrong),
            f"{len(self.outcomes)} cases, {self.seconds:.0f} s; "
            + (f"{len(failed)} NOT as expected" if failed else "all as expected"),
        ]


def run_odd(
    directory: Path, names: Iterable[str] | None = None, *, limit: float = LIMIT
) -> OddReport:
    """Calibrate odd files, and compare what they become with what is expected.

    Parameters
    ----------
    directory : Path
        Where the files go, a folder for each case. Folders of these names that an earlier
        demonstration has left are replaced.
    names : iterable of str, optional
        Cases of `ODD`; default: all.
    limit : float
        Seconds for each.

    Raises
    ------
    InputError
        For a name that is not known, or a directory that cannot be written.
    """
    began = time.monotonic()
    names = list(ODD if names is None else names)
    if unknown := set(names) - set(ODD):
        raise InputError(f"unknown odd files {sorted(unknown)}; known: {', '.join(ODD)}")
    directory = Path(directory).absolute()
    try:
        for name in ("ordinary", *names):
            if (directory / name / "config.yaml").is_file():
                shutil.rmtree(directory / name)
        ordinary = simulate_odd(directory / "ordinary", **SIMULATED, conditions="plain")
        calibrated = calibrate_here(ordinary, False, 10 * limit)  # kernels are compiled here
    except OSError as error:
        raise InputError(f"{directory}: cannot write there: {error.strerror or error}") from None
    if calibrated.l2 is None:
        raise InputError([f"the ordinary exposure: {line}" for line in calibrated.lines])
    outcomes = []
    for name in names:
        outcomes.append(_case(name, ordinary, directory / name, limit))
        log.info("%s: status %d %s", name, outcomes[-1].status, outcomes[-1].what)
    return OddReport(outcomes, time.monotonic() - began)


def _case(name: str, ordinary: Simulation, directory: Path, limit: float) -> Outcome:
    """Make one case's files, calibrate them, judge the result."""
    case = ODD[name]
    if case.options:
        made = simulate_odd(directory, **(SIMULATED | {"conditions": name}))
    else:
        made = linked(ordinary, directory)
        apply(name, made)
    before = _files(directory)
    became = (calibrate_apart if case.fresh else calibrate_here)(made, case.layers, limit)
    if name == "nan_noise" and became.status == 0:
        became = _report_with_nan(made, became, limit)
    new = _files(directory) - before
    wrong = unexpected(case, became, new)
    shown = " / ".join(became.lines) or " / ".join(became.warnings)
    if became.l2 is None:
        return Outcome(name, became.status, _short(shown), wrong=tuple(wrong))
    image = Image.read(became.l2)
    wrong += wrong_image(name, made, image, Image.read(ordinary.directory / "l2.asdf"))
    y, x = (v - BORDER for v in case.at)
    flags = [flag for flag, bit in PIXEL.items() if image.dq[y, x] & bit]
    return Outcome(
        name,
        became.status,
        _short("; ".join(filter(None, [" | ".join(flags), shown]))),
        str(np.count_nonzero(image.dq)),
        f"{image.rate[y, x]:.3f} +- {image.err[y, x]:.3f} ({truth_at(made, case.at)[0]:.3f})",
        tuple(wrong),
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if not path.is_dir()}


# -- calibrating ----------------------------------------------------------------------------------


class _TooLong(BaseException):
    """Not an `Exception`, so that nothing takes it for a fault of the input."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise after so many seconds; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings of the block, instead of on the screen."""
    kept: list[str] = []
    logger = logging.getLogger("roman_dask_l2")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield kept
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate


def calibrate_here(made: Simulation, layers: bool, limit: float = LIMIT) -> Became:
    """Validate and calibrate in this process, without threads; with layers, also the report."""

    def work() -> None:
        from ..products.job import prepare
        from ..products.level2 import calibrate
        from ..products.noise_layers import generate_noise
        from ..report import write_report

        job = prepare(load_config(made.config), noise=layers)
        calibrate(job, scheduler="synchronous")
        if layers:
            generate_noise(job, scheduler="synchronous")
            write_report(made.config)

    return _attempted(made, work, limit)


def _attempted(made: Simulation, work: Callable[[], None], limit: float) -> Became:
    """Status, message and image of some work on a simulation, after its files were validated."""
    with _warnings() as warnings:
        try:
            with _limited(limit):
                if problems := find_problems(made.config):
                    return Became(2, problems, warnings)
                warnings.clear()  # `validate` is a run of its own and says the same
                work()
            return Became(0, [], warnings, load_config(made.config).OUT)
        except InputError as error:
            return Became(2, [f"found late: {line}" for line in error.problems], warnings)
        except _TooLong:
            return Became(-1, [f"not finished after {limit:g} s"], warnings)
        except Exception as error:  # a fault of the program: it is what the table is for
            first = (str(error).splitlines() or [""])[0]
            return Became(1, [f"{type(error).__name__}: {first}"], warnings)


def calibrate_apart(made: Simulation, layers: bool, limit: float = LIMIT) -> Became:
    """Validate and calibrate as a user does, with threads, in a process of its own."""
    command = [sys.executable, "-m", "roman_dask_l2", "run", str(made.config), "--quiet"]
    options = ["--threads", "4", *(["--report"] if layers else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            timeout=limit,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Became(-1, [f"not finished after {limit:g} s"])
    lines = re.findall(r"(?m)^roman-dask-l2: error: (.*)$", done.stderr)
    if done.returncode == 0:
        return Became(0, [], done.stderr.splitlines(), load_config(made.config).OUT)
    return Became(done.returncode, lines or done.stderr.splitlines()[-1:])


def _report_with_nan(made: Simulation, became: Became, limit: float) -> Became:
    """The report again, with NaN in the noise file."""
    from ..report import write_report

    config = load_config(made.config)
    assert config.NOISE is not None
    with asdf.open(config.NOISE.OUT, memmap=False, lazy_load=False) as file:
        noise = np.array(file["noise"])
        noise[0], noise[1, 10:20, 10:20] = np.nan, np.nan
        file["noise"] = noise
        file.write_to(config.NOISE.OUT)

    def work() -> None:
        write_report(made.config)

    again = _attempted(made, work, limit)
    return Became(again.status, again.lines, became.warnings + again.warnings, again.l2)
