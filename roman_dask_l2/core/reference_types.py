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

OTHER_NAMES = {"readnoise": "read", "darkdecaysignal": "dark_decay"}
"""The observatory's name of a reference type -> the key of CALDIR that means the same."""

NOT_GIVEN = "N/A"
"""What CRDS and RAD write where an exposure has no reference of a type."""

OWN = {"linearitylegendre", "ipc4d", "biascorr"}
"""Keys of CALDIR for types that only the survey has."""


def observatory_name(key: str) -> str:
    """What the observatory calls the type of a key of CALDIR."""
    return next((name for name, ours in OTHER_NAMES.items() if ours == key), key)
