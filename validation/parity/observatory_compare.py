"""What romancal's steps left, and arrays beside it: tolerances, and causes of what is outside."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from compare import Row
from package import say, table

from roman_dask_l2.core.dq import GROUP
from roman_dask_l2.products.job import Job

STEPS = {
    "dq_init": "dq_init",
    "saturation": "saturation",
    "refpix_irrc": "refpix",
    "dark_decay": "dark_decay",
    "wfi18_transient": "wfi18_transient",
    "linearity_polynomial": "linearity",
    "ramp_fit_likelihood": "ramp_fit",
    "dark_rate_observatory": "dark",
    "flat_observatory": "flat",
}
"""Our step -> romancal's."""
FILE = "Level 2 file"
AFTER_FIT = ("ramp_fit_likelihood", "dark_rate_observatory", "flat_observatory", FILE)
FIRST_IMAGE = "ramp_fit"
NAMES = {"ramp": "data", "rate": "data"}
"""Our variable -> romancal's array, if it has another name."""
RAMP, RATE = 1e-6, 1e-5
"""Relative tolerances of resultants and rates."""
FLOOR = {"ramp": 2e-3, "rate": 1e-5}
"""Absolute ones: two steps of float32 at the usual level (DN), and DN/s."""
POSITION = 1e-6
"""Arcseconds."""
HALF = ("err", "var_poisson", "chisq", "dumo")
DUMO = 2e-6
"""Of the rate, for the difference of two rates on the same ramp."""
TIES, STEPS_OF_TIES = 1e-4, 4
"""Largest part of the pixels with such a tie, and float16 steps by which it can be felt."""
WILDEST = 1e6
"""Where romancal cuts what its polynomials give, DN."""
CLOSEST = 1e-5
"""Largest part of the pixels on which the last bit of the input may decide."""
BORDER = 4

MEANINGLESS = "gain not above zero: no number has a meaning"
FEW = "two or three used differences: which one is the jump is decided by rounding"
BEYOND = "beyond float16: infinite in romancal, its largest value here"
WILD = "a polynomial that leaves the range: the last bits of numbers beyond 1e6 decide"
TIE = "rounded to float16 before the flat, between two values"
CLOSE = "the step agrees on romancal's own input: the last bit of the input decided"


class Left:
    """Arrays after each of romancal's steps."""

    def __init__(self, out: Path, side: int) -> None:
        self.out, self.side = out, side
        self.folders = {path.name[3:]: path for path in sorted(out.glob("[0-9][0-9]_*"))}

    @property
    def steps(self) -> list[str]:
        return list(self.folders)

    def is_image(self, step: str) -> bool:
        """Whether a step leaves an image, not a ramp."""
        return FIRST_IMAGE in self.steps[: self.steps.index(step) + 1]

    def array(self, step: str, name: str) -> np.ndarray | None:
        """As it is after a step; None if it is not there."""
        where = json.loads((self.folders[step] / "meta.json").read_text())["arrays"]
        return np.load(self.out / where[name], mmap_mode="r") if name in where else None

    def after(self, step: str) -> dict[str, np.ndarray]:
        """By our names, images on the full frame."""
        later = self.is_image(step)
        names = {"rate": "data"} if later else {"ramp": "data", "pixeldq": "pixeldq"}
        names |= {n: n for n in (("dq", *HALF) if later else ("groupdq",))}
        found = {}
        for ours, theirs in names.items():
            array = self.array(step, theirs)
            if array is not None:
                found[ours] = self.whole(array) if later else array
        return found

    def whole(self, image: np.ndarray) -> np.ndarray:
        """An image with a border of zeros."""
        return np.pad(image, BORDER) if image.shape[-1] < self.side else image

    def before(self, step: str) -> dict[str, np.ndarray]:
        """The same as the step found it."""
        i = self.steps.index(step)
        if i == 0:
            return {}
        found = self.after(self.steps[i - 1])
        if self.is_image(self.steps[i - 1]):
            blank = np.zeros((self.side, self.side), np.float32)
            found |= {"var_rnoise": blank}
        return found


@dataclass
class Result:
    """One step's comparison.

    Attributes
    ----------
    step : str
    rows : list of Row
        Without what a cause explains.
    causes : dict of str to int
        Cause -> pixels outside the tolerance that it explains.
    outside : dict of str to ndarray of bool
        Array -> pixels outside, whatever the cause.
    """

    step: str
    rows: list[Row] = field(default_factory=list)
    causes: dict[str, int] = field(default_factory=dict)
    outside: dict[str, np.ndarray] = field(default_factory=dict)


def compare_step(
    step: str,
    ours: Mapping[str, np.ndarray],
    left: Left,
    job: Job,
    own: list[Result] | None = None,
) -> Result:
    """Compare what a step of ours left with what romancal's left; `own` are the results of the
    steps on romancal's input, for a cause."""
    name = STEPS[step]
    theirs = left.after(name)
    image = left.is_image(name)
    inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER)) if image else (...,)
    if image and "groupdq" in ours:
        ours = {k: v for k, v in ours.items() if k not in ("groupdq", "ramp", "pixeldq")}
    pairs = {n: (v[inner], theirs[n][inner]) for n, v in ours.items() if n in theirs}
    return explained(step, pairs, causes(step, pairs, left, job, own is not None), own)


def compare_files(mine: Path, other: Path, left: Left, job: Job, own: list[Result]) -> Result:
    """The Level 2 files: arrays, jumps, coordinates and what the steps say in the metadata."""
    pairs = {}
    with asdf.open(mine, memmap=False) as a, asdf.open(other, memmap=False) as b:
        x, y = a["roman"], b["roman"]
        for name, theirs in y.items():
            if name in ("meta", "var_rnoise", "jump_indices") or name not in x:
                continue
            pairs["rate" if name == "data" else name] = np.array(x[name]), np.array(theirs)
        shape = pairs["rate"][0].shape
        jumps = [_jump_bits(tree["jump_indices"], shape) for tree in (x, y)]
        pairs["jump_indices"] = jumps[0], jumps[1]
        rows = [coordinates(x["meta"]["wcs"], y["meta"]["wcs"], shape[0])]
        rows += metadata(x["meta"], y["meta"])
    result = explained(FILE, pairs, causes(FILE, pairs, left, job, True), own)
    result.rows += rows
    return result


def _jump_bits(indices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The list of jumps (resultant, y, x) as an image of bits; of resultants above 63 the bit is
    that of the rest of a division by 64."""
    bits = np.zeros(shape, np.uint64)
    j, y, x = np.array(indices, np.int64).T
    np.bitwise_or.at(bits, (y, x), np.uint64(1) << (j % 64).astype(np.uint64))
    return bits


def coordinates(mine: Any, theirs: Any, side: int) -> Row:
    """Sky coordinates of pixels all over the detector; the largest difference is in arcseconds."""
    grid = np.meshgrid(*2 * [np.linspace(-0.5, side - 0.5, 33)])
    (ra, dec), (ra2, dec2) = (wcs(*grid, with_bounding_box=False) for wcs in (mine, theirs))
    turn = (ra - ra2 + 180) % 360 - 180
    off = 3600 * np.hypot(turn * np.cos(np.radians(dec)), dec - dec2)
    return Row(
        "meta.wcs", int((off > 0).sum()), int((off > POSITION).sum()), off.max(), "1e-6 arcsec"
    )


def metadata(mine: Any, theirs: Any) -> list[Row]:
    """Entries that are made by steps, those of romancal that differ here."""
    rows = []
    for block in ("photometry", "statistics", "cal_step"):
        differ = outside = 0
        largest = 0.0
        for key, value in theirs[block].items():
            found = mine[block].get(key)
            if found == value:
                continue
            differ += 1
            numbers = isinstance(value, float) and isinstance(found, int | float)
            gap = abs(found - value) / max(abs(value), 1e-3) if numbers else np.inf
            outside += gap > RATE
            largest = max(largest, gap if numbers else 0)
            if gap > RATE:
                say(f"meta.{block}.{key}: {found!r}, romancal has {value!r}")
        rows.append(Row(f"meta.{block}", differ, outside, largest, f"{RATE:g}, relative"))
    return rows


Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def explained(
    step: str, pairs: Pairs, known: Mapping[str, np.ndarray], own: list[Result] | None
) -> Result:
    """Compare pairs of arrays (ours, theirs)."""
    result = Result(step)
    for name, (mine, theirs) in pairs.items():
        if mine.shape != theirs.shape:
            raise SystemExit(f"{step}: {name} has shape {mine.shape}, romancal's {theirs.shape}")
        rate = pairs["rate"][1] if name == "dumo" and "rate" in pairs else None
        row, outside = compared(name, mine, theirs, rate, DUMO if own is None else 2 * RATE)
        result.rows.append(row)
        result.outside[name] = outside
    images = [m for m in result.outside.values() if m.ndim == 2]
    found = dict(known)
    if own is not None and images:
        found |= _close(step, images[0].shape, own)
    for i, row in enumerate(result.rows):
        outside = result.outside[row.name]
        rest = outside.copy()
        for cause, where in found.items():
            rounding = cause in (BEYOND, TIE)
            if where.shape == rest.shape and (row.name in HALF or not rounding):
                hit = rest & where
                most = {CLOSE: CLOSEST, TIE: TIES}.get(cause, 1.0)
                if hit.sum() > max(most * hit.size, 1):
                    continue
                if hit.any():
                    result.causes[cause] = max(result.causes.get(cause, 0), int(hit.sum()))
                rest &= ~where
        result.rows[i] = row._replace(outside=int(rest.sum()))
    return result


def _close(step: str, shape: tuple[int, ...], own: list[Result]) -> dict[str, np.ndarray]:
    """Pixels on which every step agrees, given romancal's own input; nothing for steps before the
    fit, which have no search whose outcome a last bit could decide."""
    agree = np.ones(shape, bool)
    for result in own:
        for outside in result.outside.values():
            if outside.ndim != 2:
                continue
            if outside.shape == shape:
                agree &= ~outside
            elif outside.shape[0] == shape[0] + 2 * BORDER:
                agree &= ~outside[BORDER:-BORDER, BORDER:-BORDER]
        if result.step == step:
            break
    return {CLOSE: agree} if step in AFTER_FIT else {}


def compared(
    name: str,
    mine: np.ndarray,
    theirs: np.ndarray,
    rate: np.ndarray | None = None,
    dumo: float = DUMO,
) -> tuple[Row, np.ndarray]:
    """One array; the pixels outside the tolerance (y, x), in any resultant.

    `rate` is romancal's: ``dumo`` is the difference of two rates, each of which is rounded; `dumo`
    is the part of the rate by which it may be off."""
    differ, largest = 0, 0.0
    planes = zip(mine, theirs, strict=True) if mine.ndim == 3 else [(mine, theirs)]
    bad: Any = None
    for a, b in planes:
        if name in HALF and a.dtype != np.float16:
            with np.errstate(over="ignore"):
                a = a.astype(np.float16)
        gap, same = _gap(a, b)
        limit = _limit(name, b)
        if rate is not None:
            limit = np.maximum(limit, dumo * np.maximum(np.nan_to_num(np.abs(rate), posinf=0), 1))
        outside = gap > limit
        bad = outside if bad is None else bad | outside
        differ += int((~same).sum())
        largest = max(largest, float(gap[np.isfinite(gap)].max(initial=0)))
    words = {"ramp": f"{RAMP:g} or {FLOOR['ramp']:g} DN", "rate": f"{RATE:g} or {RATE:g} DN/s"}
    words |= dict.fromkeys(HALF, "one float16 step")
    if name.startswith("border_ref"):
        words[name] = words["ramp"]
    words["dumo"] += f", or {dumo:g} of the rate or DN/s"
    return Row(name, differ, int(bad.sum()), largest, words.get(name, "identical")), bad


def _gap(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    same = (mine == theirs) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    return np.where(np.isfinite(gap), gap, np.inf), same


def _limit(name: str, theirs: np.ndarray) -> Any:
    if name in FLOOR or name.startswith("border_ref"):
        size = np.nan_to_num(np.abs(theirs.astype(np.float64)), posinf=0)
        kind = "rate" if name == "rate" else "ramp"
        return np.maximum((RATE if kind == "rate" else RAMP) * size, FLOOR[kind])
    if name in HALF:
        with np.errstate(invalid="ignore"):
            step = np.spacing(np.abs(theirs.astype(np.float16))).astype(np.float64)
        return np.nan_to_num(step, posinf=0) * 1.001
    return 0.0


def causes(
    step: str, pairs: Pairs, left: Left, job: Job, all_before: bool
) -> dict[str, np.ndarray]:
    """Masks of pixels (y, x) that may differ, by cause; `all_before` says that what earlier steps
    did differently is in the arrays."""
    found: dict[str, Any] = {}
    active = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    if step == "ramp_fit_likelihood" or (all_before and step in AFTER_FIT):
        gain = job.inputs.sources["gain.data"].read()[active]
        found[MEANINGLESS] = ~(gain > 0)
        used = _used(left.before("ramp_fit")["groupdq"][(..., *active)])
        found[FEW] = (used == 2) | (used == 3)
    if step == "linearity_polynomial" or (all_before and step in AFTER_FIT):
        wild = np.zeros(left.side, bool)
        for plane in left.after("linearity")["ramp"]:
            wild = wild | (np.abs(plane) >= WILDEST)
        found[WILD] = wild if step == "linearity_polynomial" else wild[active]
    for name in HALF if step in AFTER_FIT else ():
        if name in pairs:
            mine, theirs = pairs[name]
            largest = np.copysign(np.finfo(np.float16).max, theirs)
            with np.errstate(over="ignore"):
                beyond = np.isinf(theirs) & (mine.astype(np.float16) == largest)
            found[BEYOND] = found.get(BEYOND, False) | beyond
            if all_before and step in ("flat_observatory", FILE):
                gap = _gap(mine.astype(np.float16), theirs)[0]
                few = (gap > 0) & (gap <= STEPS_OF_TIES * _limit(name, theirs))
                found[TIE] = found.get(TIE, False) | few
    return found


def _used(flags: np.ndarray) -> np.ndarray:
    """Differences that are used before any is dropped as a jump (y, x)."""
    flags = flags & ~np.uint8(GROUP["JUMP_DET"])
    used = np.zeros(flags.shape[1:], np.uint8)
    for earlier, later in itertools.pairwise(flags):
        used += (earlier | later) == 0
    return used


def summary(results: list[Result]) -> str:
    """Both Markdown tables."""
    lines = [
        [
            r.step,
            row.name,
            f"{row.differ:,}",
            f"{row.outside:,}",
            f"{row.largest:.2g}",
            row.tolerance,
        ]
        for r in results
        for row in r.rows
    ]
    head = ["step", "array", "values that differ", "pixels outside", "largest finite difference"]
    text = table([*head, "tolerance"], lines)
    named = [[r.step, cause, f"{n:,}"] for r in results for cause, n in r.causes.items()]
    if named:
        head = ["step", "cause of what is outside the tolerance", "pixels"]
        text += "\n\n" + table(head, named)
    return text
