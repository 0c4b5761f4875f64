"""What statistics and fits left out, and the warnings about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.cells import CELLS
from ..io.kept_bits import Kept
from ..steps.likelihood_params import LikelihoodParams
from ..steps.ramp_subsets import EXCLUDING
from .job import Job


def kept_bits(job: Job) -> Kept | None:
    """What the recipe's ramp fit leaves out of single pixels, for the L2 file."""
    r, start = job.exposure.n_resultants, job.exposure.start
    if getattr(job.params("ramp_fit"), "exclude", False):
        return Kept("excluded", "ramp_fit", "groupdq", r, start, int(EXCLUDING))
    if isinstance(job.params("ramp_fit_likelihood"), LikelihoodParams):
        return Kept("unused_differences", "ramp_fit_likelihood", "unused", r - 1, start, 1)
    return None


def sky_order(order: int | None, measured: Mapping[str, Any]) -> int:
    """Order of the sky model that was subtracted, -1 if none was."""
    found = measured.get("sky", {}).get("coefs", ())
    return -1 if order is None or len(found) == 0 else order


def counts(measured: Mapping[str, Any]) -> dict[str, int]:
    """How many values were left out.

    Parameters
    ----------
    measured : mapping
        Step name -> results of its reduction.

    Returns
    -------
    dict of str to int
        ``sky_pixels`` (not finite or DO_NOT_USE) and ``sky_cells`` of the sky fit; ``refpix``,
        values of reference pixels and reference output that are not known. Keys of steps that the
        recipe does not have are missing.
    """
    sky, refpix = measured.get("sky", {}), measured.get("refpix", {})
    found = {
        "sky_pixels": sky.get("pixels"),
        "sky_cells": sky.get("cells"),
        "refpix": refpix.get("left_out"),
    }
    return {name: int(n) for name, n in found.items() if n is not None}


def warnings(order: int | None, measured: Mapping[str, Any]) -> list[str]:
    """Warnings for the user of the exposure, one sentence each.

    Parameters
    ----------
    order : int or None
        Order of the sky model that was requested.
    measured : mapping
        Step name -> results of its reduction.
    """
    n, found = counts(measured), []
    if order is not None and sky_order(order, measured) < 0:
        found.append(
            f"SKYORDER {order}: no sky is subtracted, {CELLS**2 - n.get('sky_cells', 0)} of "
            f"{CELLS**2} cells have usable pixels, too few for this order"
        )
    elif n.get("sky_cells"):
        found.append(f"sky: {n['sky_cells']} of {CELLS**2} cells have no usable pixels")
    if n.get("refpix"):
        found.append(f"refpix: {n['refpix']} values that are not known are left out")
    if measured.get("refpix", {}).get("no_weight"):
        found.append("refpix: rows are not corrected, CALDIR.read gives no finite noise amplitudes")
    return found
