"""The likelihood fit beside romanimpreprocess with `romancal_ramp_fit`, pixel by pixel.

Where the two differ by more than the tolerance, rounding or a reference without meaning must be the
cause; such pixels are counted by cause, and anything else is a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asdf
import numpy as np
import yaml
from compare import IMAGES, Row, images, rows_table
from package import run_module, table

RECIPE = "romanimpreprocess_1.0_likelihood"
QUALITY = ("chisq", "dumo")
STEPS = 4
"""Float16 steps by which a tie in the rounding before the flat can be felt after it: the flat is
between 0.5 and 2 wherever it says anything, and a step may be half as large, or twice."""
TIES = 1e-4
"""Largest fraction of pixels with such a tie."""

MEANINGLESS = "gain not above zero: no number has a meaning"
FEW = "two or three used differences: which one is the jump is decided by rounding"
BEYOND = "beyond float16: infinite in the package, its largest value here"
TIE = "rounded to float16 before the flat, between two values"


def likelihood_tables(
    config: Path, python: Path, run_ours: Callable[[Path, str | Path], Path], recipe: str | Path
) -> tuple[str, str, int, list[str]]:
    """Run both and compare.

    Parameters
    ----------
    config : Path
        The configuration of the exposure.
    python : Path
        The package's interpreter.
    run_ours : callable
        ``run_ours(config, recipe)`` -> Level-2 file.
    recipe : str or Path
        Our recipe.

    Returns
    -------
    arrays, causes : str
        Markdown tables.
    n : int
        Arrays compared.
    failed : list of str
    """
    settings = yaml.safe_load(config.read_text())
    settings.pop("NOISE", None)
    settings |= {"OUT": "package_likelihood.asdf", "romancal_ramp_fit": True}
    theirs = config.with_name("config_likelihood.yaml")
    theirs.write_text(yaml.safe_dump(settings))
    run_module("romanimpreprocess.L1_to_L2.gen_cal_image", theirs, python, "package_likelihood")
    ours = run_ours(config, recipe)
    rows, causes, failed = compare_fits(
        images(ours, IMAGES + QUALITY),
        images(config.with_name("package_likelihood.asdf"), IMAGES + QUALITY),
        gain_of(config),
        used_differences(config, recipe),
    )
    lines = [[name, f"{n:,}", f"{outside:,}"] for name, (n, outside) in causes.items()]
    found = table(["cause", "pixels", "of these differ"], lines)
    return rows_table(rows), found, len(rows), failed


def gain_of(config: Path) -> np.ndarray:
    """Gain of the active pixels, e/DN."""
    place = config.parent / yaml.safe_load(config.read_text())["CALDIR"]["gain"]
    with asdf.open(place, memmap=False) as file:
        return np.array(file["roman"]["data"])[4:-4, 4:-4]


def used_differences(config: Path, recipe: str | Path) -> np.ndarray:
    """Differences of each active pixel that are used before any is dropped as a jump (y, x)."""
    from roman_dask_l2.core.detector import Grid, parse_tile
    from roman_dask_l2.core.dq import GROUP
    from roman_dask_l2.engine import graph
    from roman_dask_l2.products.job import prepare

    settings = yaml.safe_load(config.read_text()) | {"GRAPH": str(recipe)}
    settings.pop("NOISE", None)
    path = config.with_name("config_differences.yaml")
    path.write_text(yaml.safe_dump(settings))
    job = prepare(path)
    grid = Grid(job.exposure.side, parse_tile(None, job.exposure.side))
    flags = graph.build(job.steps, job.inputs, grid, ["groupdq"], False).arrays["groupdq"]

    def count(block: np.ndarray) -> np.ndarray:
        block = block & np.uint8(0xFF & ~GROUP["JUMP_DET"])
        return ((block[1:] | block[:-1]) == 0).sum(axis=0, dtype=np.uint8)

    return flags.map_blocks(count, drop_axis=0, dtype=np.uint8)[4:-4, 4:-4].compute()


def compare_fits(
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    gain: np.ndarray,
    used: np.ndarray,
) -> tuple[list[Row], dict[str, tuple[int, int]], list[str]]:
    """Compare all arrays.

    Parameters
    ----------
    ours, theirs : mapping of str to ndarray
    gain, used : ndarray (y, x)
        Gain (e/DN), and how many differences there are to fit.

    Returns
    -------
    rows : list of Row
        Without the pixels that a cause explains.
    causes : mapping of str to (int, int)
        Cause -> pixels that have it, and how many of them differ by more than the tolerance.
    failed : list of str
        Arrays with pixels outside the tolerance that no cause explains, and causes that are too
        frequent.
    """
    gaps = {name: _gap(ours[name], theirs[name]) for name in theirs}
    outside = {name: gap > _limit(name, theirs)[0] for name, gap in gaps.items()}
    pixels = {name: bad for name, bad in outside.items() if bad.shape == gain.shape}
    there = {MEANINGLESS: ~(gain > 0), FEW: (used == 2) | (used == 3)}
    there[BEYOND] = np.any([_beyond(ours[n], theirs[n]) for n in _HALF], axis=0)
    there[TIE] = np.any([pixels[n] & (gaps[n] <= STEPS * _step(theirs[n])) for n in _HALF], axis=0)
    rounded = there[BEYOND] | there[TIE]
    always = there[MEANINGLESS] | there[FEW]
    rows, failed = [], []
    for name, gap in gaps.items():
        bad = outside[name]
        excused = np.zeros(bad.shape, bool)
        if name in pixels:
            excused = always | (rounded if name in _HALF else False)
        gap = np.where(excused, 0, gap)
        words = _limit(name, theirs)[1]
        left = int((bad & ~excused).sum())
        rows.append(Row(name, int((gap > 0).sum()), left, float(gap.max(initial=0)), words))
        failed += [f"likelihood {name}"] if left else []
    any_bad = np.any(list(pixels.values()), axis=0)
    causes = {name: (int(m.sum()), int((m & any_bad).sum())) for name, m in there.items()}
    if there[TIE].sum() > max(TIES * gain.size, 1):
        failed.append(TIE)
    return rows, causes, failed


_HALF = ("err", "var_poisson", *QUALITY)


def _gap(mine: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Absolute difference; infinite where only one is finite."""
    if mine.shape != reference.shape:
        raise SystemExit(f"shape {mine.shape}, the package has {reference.shape}")
    a, b = mine.astype(np.float64), reference.astype(np.float64)
    same = (mine == reference) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    return np.where(np.isfinite(gap), gap, np.inf)


def _step(reference: np.ndarray) -> np.ndarray:
    """A float16 step at each value; 0 where it is not finite."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.spacing(np.abs(reference)).astype(float), posinf=0) * 1.001


def _limit(name: str, theirs: dict[str, np.ndarray]) -> tuple[np.ndarray | float, str]:
    """Largest difference allowed, and in words."""
    reference = theirs[name]
    if name == "dumo":  # of two rates, each of which is rounded
        rate = np.nan_to_num(np.abs(theirs["data_withsky"].astype(float)), posinf=0)
        limit = np.maximum(_step(reference), 2e-6 * np.maximum(rate, 1))
        return limit, "one float16 step, or 2e-6 of the rate or DN/s"
    if name in ("data", "data_withsky"):
        size = np.nan_to_num(np.abs(reference.astype(float)), posinf=0)
        return np.maximum(1e-5 * size, 1e-6), "1e-5, relative, or 1e-6 DN/s"
    if name in _HALF:
        return _step(reference), "one float16 step"
    if name in ("skycoefs", "medsky", "medgain"):
        return 1e-5 * np.abs(reference).max(), "1e-5 of the largest"
    return 0.0, "identical"


def _beyond(mine: np.ndarray, reference: np.ndarray) -> np.ndarray:
    largest = np.finfo(np.float16).max
    return np.isinf(reference) & (mine == np.copysign(largest, reference))
