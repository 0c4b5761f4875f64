"""Types by which reference files identify themselves in their metadata."""

from __future__ import annotations

REFTYPES: dict[str, tuple[str, ...]] = {
    "dark": ("DARK",),
    "gain": ("GAIN",),
    "linearitylegendre": ("LINEARITYLEGENDRE", "LINEARITY"),
    "read": ("READNOISE", "READ"),
    "saturation": ("SATURATION",),
    "flat": ("FLAT",),
    "ipc4d": ("IPC4D", "IPC"),
    "mask": ("MASK",),
    "biascorr": ("BIASCORR", "BIAS"),
    "linearity": ("LINEARITY",),
    "inverselinearity": ("INVERSELINEARITY",),
    "integralnonlinearity": ("INTEGRALNONLINEARITY",),
    "refpix": ("REFPIX",),
    "photom": ("PHOTOM",),
    "distortion": ("DISTORTION",),
    "dark_decay": ("DARKDECAYSIGNAL", "DARKDECAY"),
}
"""Key of CALDIR -> what ``roman.meta.reftype`` may be, the usual name first. Where
roman_datamodels has another format under a name (LINEARITY, IPC, BIAS), the arrays tell them apart.
"""
