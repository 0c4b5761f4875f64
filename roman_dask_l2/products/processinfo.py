"""How an L2 file was made, for its ``processinfo``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.detector import BORDER
from ..core.exposure import Exposure
from .job import Job
from .left_out import counts, sky_order
from .metadata import uniform_light


def medsky(measured: Mapping[str, Any]) -> float:
    """Mode of the background, DN/s; NaN if no step has measured it."""
    return float(measured.get("medsky", {}).get("medsky", math.nan))


def processinfo(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    """How the file was made: ``processinfo``, in addition to the mission's metadata."""
    from .provenance import provenance

    exposure, config = job.exposure, job.config
    fit, sky = job.params("ramp_fit"), job.params("sky")
    order = getattr(sky, "order", None)
    measured = found["measured"]
    weights = _weights(exposure, fit)
    return {
        "medsky": medsky(measured),
        "medgain": found["medgain"][0],
        "skyorder": sky_order(order, measured),
        "skycoefs": measured.get("sky", {}).get("coefs", np.zeros(0)),
        "left_out": counts(measured) | {"medgain": found["medgain"][1]},
        "ramp_opt_pars": _pick(fit, slope="slope", gain="gain", sigma_read="sigma_read"),
        "weights": weights,
        "meta": {
            "frame_time": exposure.frame_time,
            "read_pattern": [list(reads) for reads in exposure.read_pattern],
            "ngrp": exposure.n_resultants,
            "tbar": exposure.tbar.astype(np.float32),
            "tau": exposure.tau.astype(np.float32),
            "N": _counts(exposure.n_reads),
            "K": weights,
            "nborder": BORDER,
            "jump_detect_pars": _pick(
                fit,
                SthreshA="threshold_a",
                SthreshB="threshold_b",
                IthreshA="rate_a",
                IthreshB="rate_b",
            ),
        },
        "config": config.raw,
        "exclude_first": exposure.exclude_first,
        "uniform_light": uniform_light(job),
        "log": _log_text(job, measured),
        "provenance": provenance(job),
    }


def _counts(values: np.ndarray) -> np.ndarray:
    """Integers as int16, or int32 if one of them is too large."""
    return values.astype(np.int16 if values.max() <= np.iinfo(np.int16).max else np.int32)


def _pick(params: Any, **names: str) -> dict[str, float] | None:
    return None if params is None else {key: getattr(params, name) for key, name in names.items()}


def _weights(exposure: Exposure, fit: Any) -> np.ndarray | None:
    """Weights K of the full ramp, 1/s; None if the recipe has another ramp fit."""
    from ..steps.ramp_params import RampFitParams
    from ..steps.ramp_weights import fits

    if not isinstance(fit, RampFitParams):
        return None
    return fits(exposure, fit)[-1].k


def _log_text(job: Job, measured: Mapping[str, Any]) -> str:
    """The log of the file: one line for each step and its options."""
    lines = [f"recipe {job.recipe.name}", *([str(job.crds)] if job.crds is not None else [])]
    skipped = [b.name for b in job.recipe.steps if b not in job.steps]
    for bound in job.steps:
        options = ", ".join(f"{k}={v}" for k, v in bound.params.model_dump().items())
        lines.append(f"{bound.name}: {options}" if options else bound.name)
    lines += [f"{name}: not applied" for name in skipped]
    return "\n".join(lines) + "\n"
