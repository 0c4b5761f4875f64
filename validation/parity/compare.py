"""Two Level-2 files array by array."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import asdf
import numpy as np
from astropy.io import fits
from package import table

IMAGES = ("data", "data_withsky", "dq", "err", "var_poisson")


class Row(NamedTuple):
    """One line of the first table."""

    name: str
    differ: int
    outside: int
    largest: float
    tolerance: str


def rows_table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    return table(
        ["array", "pixels that differ", "outside tolerance", "largest difference", "tolerance"],
        [
            [r.name, f"{r.differ:,}", f"{r.outside:,}", f"{r.largest:.3g}", r.tolerance]
            for r in rows
        ],
    )


def images(path: Path, names: tuple[str, ...] = IMAGES) -> dict[str, np.ndarray]:
    """Everything that is compared, by name; of the numbers those that the file has."""
    with asdf.open(path, lazy_load=True) as file:
        found = {name: np.array(file["roman"][name]) for name in names}
        info = file["processinfo"]
        found["endslice"] = np.array(info["endslice"])
        for name in ("weights", "skycoefs", "medsky", "medgain"):
            if info.get(name) is not None:
                found[name] = np.atleast_1d(np.array(info[name], float))
        for edge in ("left", "right", "top", "bottom"):
            for name in (f"border_ref_pix_{edge}", f"dq_border_ref_pix_{edge}"):
                found[name] = np.array(file["roman"][name])
        found["amp33"] = np.array(file["roman"]["amp33"])
    with fits.open(path.with_name(path.stem + "_asdf_to.fits")) as hdus:
        found["FITS mask"] = hdus[2].data == -1000
    return found


def compare(ours: Path, package: Path) -> list[Row]:
    """The first table."""
    rows = []
    theirs = images(package)
    for name, mine in images(ours).items():
        reference = theirs[name]
        if mine.shape != reference.shape:
            raise SystemExit(f"{name}: shape {mine.shape}, the package has {reference.shape}")
        a, b = mine.astype(np.float64), reference.astype(np.float64)
        same = (mine == reference) | (np.isnan(a) & np.isnan(b))
        gap = np.where(same, 0.0, np.abs(a - b))
        gap[~np.isfinite(gap)] = np.inf
        limit, words = tolerance(name, reference)
        rows.append(Row(name, int((~same).sum()), int((gap > limit).sum()), gap.max(), words))
    return rows


def tolerance(name: str, reference: np.ndarray) -> tuple[np.ndarray | float, str]:
    """Largest difference allowed, and in words."""
    if name in ("data", "data_withsky"):
        return np.maximum(1e-6 * np.abs(reference.astype(float)), 1e-6), "1e-6, relative or DN/s"
    if name in ("err", "var_poisson"):
        return np.spacing(np.abs(reference)).astype(float) * 1.001, "one float16 step"
    if name in ("weights", "skycoefs", "medsky", "medgain"):
        return 1e-5 * np.abs(reference).max(), "1e-5 of the largest"
    return 0.0, "identical"
