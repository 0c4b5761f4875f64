"""The mission's metadata of the L2 file: those of the L1 file, updated where they changed."""

from __future__ import annotations

from typing import Any

from ..core.detector import BORDER
from ..core.photometry import photometry
from ..engine.plan import input_names
from ..io.footprint import middle, sky_region
from ..io.l2 import check_model, image_model
from ..system.foreign import alone
from .job import Job

REF_FILES = {
    "dark": "dark",
    "gain": "gain",
    "linearitylegendre": "linearity",
    "read": "readnoise",
    "saturation": "saturation",
    "flat": "flat",
    "mask": "mask",
    "dark_decay": "darkdecaysignal",
    **{
        key: key
        for key in ("inverselinearity", "integralnonlinearity", "refpix", "photom", "distortion")
    },
    "linearity": "linearity",
}
"""Key of CALDIR -> key of ``meta.ref_file``, which has no key for the others."""


def l2_model(job: Job) -> Any:
    """The L2 file's ``ImageModel``, without its arrays.

    Raises
    ------
    InputError
        If the L1 file's metadata cannot be used.
    """
    with alone():
        return _l2_model(job)


def _l2_model(job: Job) -> Any:
    side = job.exposure.side - 2 * BORDER
    complete = {b.step.cal_step for b in job.steps if b.step.cal_step} | {"assign_wcs"}
    model = image_model(
        job.config.IN,
        job.config.OUT.name,
        job.wcs.gwcs(side),
        photometry(job.exposure.optical_element),
        complete,
    )
    wcsinfo = model.meta.get("wcsinfo")
    if wcsinfo is not None:
        wcsinfo["s_region"] = sky_region(job.wcs, side)
        own = job.config.FITSWCS is None and job.config.GWCS is None
        if not own and str(wcsinfo.get("aperture_name")).endswith("_FULL"):
            wcsinfo["ra_ref"], wcsinfo["dec_ref"] = middle(job.wcs, side)
    names = model.meta.get("ref_file")
    if names is not None:
        used = {name for b in job.steps for name in input_names(b)}
        keys = {name.partition(".")[0] for name in used if job.inputs.available(name)}
        prefix = "" if job.crds is None else "crds://"
        own_names = {REF_FILES[k]: prefix + job.references[k].name for k in keys & REF_FILES.keys()}
        if job.crds is not None:
            names["crds"] = {"context": job.crds.context, "version": job.crds.software}
        for key in [key for key in names if key != "crds"]:
            names[key] = own_names.get(key, "N/A")
    return model


def check_metadata(job: Job) -> None:
    """Check that the L1 file's metadata make a valid L2 file.

    Raises
    ------
    InputError
    """
    check_model(job.config.IN, l2_model(job))
