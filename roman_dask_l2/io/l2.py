"""The Level 2 file: a valid roman_datamodels ``ImageModel``, the pipeline's extras beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

CAL_STEPS = (
    "assign_wcs",
    "dark",
    "dark_decay",
    "dq_init",
    "flat_field",
    "flux",
    "linearity",
    "outlier_detection",
    "photom",
    "ramp_fit",
    "refpix",
    "saturation",
    "skymatch",
    "source_catalog",
    "tweakreg",
    "wfi18_transient",
)
"""Keys of ``meta.cal_step``."""

IMAGE_ARRAYS: dict[str, str] = {
    "data": "float32",
    "data_withsky": "float32",
    "dq": "uint32",
    "err": "float16",
    "var_poisson": "float16",
    "chisq": "float16",
    "dumo": "float16",
}
"""Arrays of ``roman`` on the active pixels and the type that they are stored with."""

EDGES = ("left", "right", "top", "bottom")
"""Sides of the reference border; left = first 4 columns, bottom = first 4 rows."""


@dataclass
class L2Image:
    """A calibrated exposure, ready to be written.

    Attributes
    ----------
    arrays : mapping
        `IMAGE_ARRAYS` (and var_rnoise where asked), active pixels.
    mask : ndarray (y, x) of bool
        Combined mask, True = bad.
    border, border_dq : mapping
        Edge -> reference pixels, (R, N, 4) or (R, 4, N) of float32, and their flags.
    amp33 : ndarray (R, N, 128) of uint16
    l1 : Path
    wcs : gwcs.WCS
    photometry : mapping
    complete : set of str
        Keys of ``meta.cal_step`` that ran.
    processinfo : dict
    """

    arrays: Mapping[str, np.ndarray]
    mask: np.ndarray
    border: Mapping[str, np.ndarray]
    border_dq: Mapping[str, np.ndarray]
    amp33: np.ndarray
    l1: Path
    wcs: Any
    photometry: Mapping[str, Any]
    complete: set[str]
    processinfo: dict[str, Any] = field(default_factory=dict)


def half(array: np.ndarray) -> np.ndarray:
    """To float16, clipped to its range: an overflow must not become infinity."""
    largest = np.finfo(np.float16).max
    return np.clip(array, -largest, largest).astype(np.float16)


def write_l2(path: Path, image: L2Image, name: str) -> None:
    """Write an L2 file.

    Parameters
    ----------
    path : Path
        Where to write (the caller renames it).
    image : L2Image
    name : str
        Final file name, which goes into the metadata.
    """
    import asdf

    model = image_model(image, name)
    tree = {"roman": model._instance, "mask": image.mask, "processinfo": image.processinfo}
    with warnings.catch_warnings():
        # gwcs and astropy announce the retirement of things that the models themselves still use.
        warnings.simplefilter("ignore", DeprecationWarning)
        asdf.AsdfFile(tree).write_to(path)


def image_model(image: L2Image, name: str) -> Any:
    """The ``ImageModel``: the L1 file's metadata, what this program knows, and the arrays."""
    import roman_datamodels.datamodels as models
    from astropy.time import Time

    from .. import __version__

    with models.open(image.l1, lazy_load=True) as raw:
        meta = raw.meta.copy()
    model = models.ImageModel.create_fake_data(defaults={"meta": meta}, shape=(2, 2))
    meta = model.meta
    meta["filename"] = name
    meta["model_type"] = "ImageModel"
    meta["file_date"] = Time(datetime.now(UTC).replace(tzinfo=None), scale="utc")
    meta["calibration_software_name"] = "roman-dask-l2"
    meta["calibration_software_version"] = __version__
    if "product_type" in meta:
        meta["product_type"] = "l2"
    meta["cal_step"] = {
        key: "COMPLETE" if key in image.complete else "INCOMPLETE" for key in CAL_STEPS
    }
    meta["photometry"] = dict(image.photometry)
    meta["wcs"] = image.wcs
    if "dq2" in model._instance:  # required from roman_datamodels 1.2 on; no reference has one yet
        model["dq2"] = np.zeros(image.mask.shape, np.uint32)
    for key, values in image.arrays.items():
        model[key] = values
    model["amp33"] = image.amp33
    for edge in EDGES:
        model[f"border_ref_pix_{edge}"] = image.border[edge]
        model[f"dq_border_ref_pix_{edge}"] = image.border_dq[edge]
    return model
