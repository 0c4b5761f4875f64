"""Large images in few cells, and the kinds of flags that pictures tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..core.dq import PIXEL

KINDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("do not use", "#000000", ("DO_NOT_USE",)),
    ("saturated", "#E69F00", ("SATURATED",)),
    (
        "hot, dead, etc.",
        "#D55E00",
        ("DEAD", "HOT", "WARM", "LOW_QE", "TELEGRAPH", "NON_SCIENCE", "OTHER_BAD_PIXEL"),
    ),
    (
        "no correction",
        "#0072B2",
        ("NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK"),
    ),
    ("jump", "#009E73", ("JUMP_DET",)),
    ("guide window", "#56B4E9", ("GW_AFFECTED_DATA",)),
    ("other", "#CC79A7", tuple(PIXEL)),
)
"""What the flags' panel tells apart: label, colour, flags. The first that fits colours a cell.

The colours (Okabe and Ito) can be told apart by people who do not see red or green.
"""


def _in_blocks(image: np.ndarray, k: int) -> np.ndarray:
    """View (y, k, x, k) of an image as k x k blocks; what is left over at the far edges is cut."""
    ny, nx = (size // k for size in image.shape)
    return image[: ny * k, : nx * k].reshape(ny, k, nx, k)


def block_mean(image: np.ndarray, mask: np.ndarray, k: int) -> np.ndarray:
    """Mean over the unmasked pixels of each k x k block, NaN where there are none."""
    good = ~_in_blocks(mask, k)
    total = np.where(good, _in_blocks(image, k), np.float32(0)).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        return total / good.sum(axis=(1, 3), dtype=np.float32)


def block_kinds(dq: np.ndarray, k: int) -> np.ndarray:
    """1 + index of the first of `KINDS` that any pixel of each k x k block has; 0 for none."""
    blocks = _in_blocks(dq, k)
    flags = np.bitwise_or.reduce(np.bitwise_or.reduce(blocks, axis=3), axis=1)
    kinds = np.zeros(flags.shape, np.uint8)
    for i, (_, _, names) in reversed(list(enumerate(KINDS, 1))):
        kinds[flags & bits(names) != 0] = i
    return kinds


def bits(names: tuple[str, ...]) -> np.uint32:
    """The flags of these names, together."""
    return np.uint32(sum(PIXEL[name] for name in names))


def kind_counts(combinations: Mapping[int, int], pixels: int) -> list[int]:
    """Pixels without a flag, then with each of `KINDS`.

    Parameters
    ----------
    combinations : mapping of int to int
        Value of dq -> how many pixels have it; 0 may be left out.
    pixels : int
        All of them.
    """
    flagged = sum(n for value, n in combinations.items() if value)
    counts, known = [pixels - flagged], 0
    for _, _, names in KINDS:
        wanted = int(bits(names)) & ~known  # "other" is what no kind before it has
        known |= wanted
        counts.append(sum(n for value, n in combinations.items() if value & wanted))
    return counts


def percent(part: float) -> str:
    """A fraction to three digits, without exponent."""
    if not math.isfinite(part) or part == 0:
        return f"{100 * part:g} %"
    if abs(part) < 1e-5:
        return "< 0.001 %" if part > 0 else "0 %"
    return f"{100 * part:.{max(2 - math.floor(math.log10(abs(100 * part))), 0)}f} %"


def combinations(dq: np.ndarray) -> dict[int, int]:
    """How many pixels have each value of dq but 0."""
    values, counts = np.unique(dq[dq != 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def spread(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation of the finite values; (0, 1) if there are none."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, middle, high = np.percentile(values, [15.87, 50, 84.13])
    return float(middle), float(high - low) / 2 or 1.0
