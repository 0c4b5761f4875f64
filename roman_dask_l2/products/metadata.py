"""The mission's metadata of the L2 file: those of the L1 file, updated where they changed."""

from __future__ import annotations

from collections.abc import Mapping
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
    "linearity": "linearity",
    "inverselinearity": "inverselinearity",
    "integralnonlinearity": "integralnonlinearity",
    "refpix": "refpix",
    "photom": "photom",
    "distortion": "distortion",
}
"""Key of CALDIR -> key of ``meta.ref_file``, which has no key for the others."""
EARLIER = {"inverselinearity": "inverse_linearity"}
"""Keys of ``meta.ref_file`` -> what they are called before roman_datamodels 1.2."""
UNKNOWN = -999999
"""What the mission's metadata have for a number that is not known."""
BLANK = "all_saturated"
"""The step that blanks an exposure of which every pixel is saturated; what was done after the flags
were set has no meaning then."""
BEFORE_BLANK = {"dq_init", "saturation"}
"""Keys of ``meta.cal_step`` that are complete even so."""


def l2_model(job: Job) -> Any:
    """The L2 file's ``ImageModel``, without its arrays.

    Raises
    ------
    InputError
        If the L1 file's metadata cannot be used.
    """
    with alone():
        return _l2_model(job)


def _cal_steps(job: Job) -> dict[str, str]:
    """Keys of ``meta.cal_step`` -> what became of them: SKIPPED are steps of the recipe that do not
    apply to the exposure, or lack their file."""
    found = {"assign_wcs": "COMPLETE"}
    for bound in job.recipe.steps:
        if bound.step.cal_step and found.get(bound.step.cal_step) != "COMPLETE":
            found[bound.step.cal_step] = "COMPLETE" if bound in job.steps else "SKIPPED"
    return found


def uniform_light(job: Job) -> str | None:
    """What light of uniform surface brightness looks like in the image: that is for the flat field
    to say. None if no step does."""
    said = [b.step.uniform_light for b in job.steps if b.step.uniform_light]
    return said[-1] if said else None


def _photometry(job: Job, measured: Mapping[str, Any]) -> dict[str, float | None]:
    """``meta.photometry``: of the photometry table if the recipe looks it up, else nominal."""
    if all(b.name != "photom" for b in job.recipe.steps):
        return photometry(job.exposure.optical_element)
    table = job.inputs.sources.get("photom.phot_table")
    if table is None or job.exposure.optical_element not in table.read():
        return dict.fromkeys(photometry(job.exposure.optical_element), UNKNOWN)
    return dict(measured.get("photom", dict.fromkeys(photometry(""))))


def with_measured(model: Any, job: Job, measured: Mapping[str, Any]) -> Any:
    """An ``ImageModel`` with what was only known when the frame had been measured.

    Parameters
    ----------
    model : roman_datamodels.datamodels.ImageModel
        From `l2_model`; it is changed.
    job : Job
    measured : mapping
        Step name -> results of its reduction.
    """
    meta = model.meta
    meta["photometry"] = _photometry(job, measured)
    if "statistics" in measured:
        found = measured["statistics"].items()
        meta["statistics"] = {k: UNKNOWN if v is None else v for k, v in found}
    if measured.get(BLANK, {}).get("all"):
        steps = {k: v for k, v in _cal_steps(job).items() if k not in BEFORE_BLANK}
        meta["cal_step"] = dict(meta["cal_step"]) | dict.fromkeys(steps, "SKIPPED")
    return model


def _l2_model(job: Job) -> Any:
    side = job.exposure.side - 2 * BORDER
    model = image_model(
        job.config.IN,
        job.config.OUT.name,
        job.wcs.gwcs(side),
        _photometry(job, {}),
        _cal_steps(job),
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
        if job.wcs.distortion is not None:
            keys.add("distortion")
        prefix = "" if job.crds is None else "crds://"
        own_names = {REF_FILES[k]: prefix + job.references[k].name for k in keys & REF_FILES.keys()}
        if job.crds is not None:
            names["crds"] = {"context": job.crds.context, "version": job.crds.software}
        own_names |= {EARLIER[k]: name for k, name in own_names.items() if k in EARLIER}
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
