"""Reference files that several simulated exposures share: whether they are of the same detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asdf

from ..errors import InputError
from .options import Options

KEYS = "read", "readnoise"
"""The reference file that says what it was simulated with: the survey's, the observatory's."""


def described(options: Options) -> dict[str, Any]:
    """All that reference files depend on, as it stands in one of `KEYS`."""
    about = {
        "side": options.side,
        "detector": options.detector,
        "optical_element": options.optical_element,
        "detector_seed": options.seeds.detector,
        "conditions": sorted(options.conditions),
        "read_pattern": [list(reads) for reads in options.read_pattern or ()],
        "frame_time": float(options.frame_time),
        "noise": {key: float(value) for key, value in options.run().noise.items()},
        "reference_read": options.n_taken_out,
        "extra_plane": options.has_extra_plane,
        "amp33": options.amp33,
        "biascorr": options.has_bias,
        "dark_decay": options.has_dark_decay,
    }
    if options.of_observatory:
        about |= {"references": options.references, "ipc": options.has_ipc}
    return about


def found_in(folder: Path) -> dict[str, Any] | None:
    """What the reference files of a folder were simulated with; None if there are none.

    Raises
    ------
    InputError
        If they were not simulated, or cannot be read.
    """
    path = next((p for key in KEYS if (p := folder / f"{key}.asdf").exists()), None)
    if path is None:
        return None
    try:
        with asdf.open(path) as file:
            found = file["roman"]["meta"].get("simulation")
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"cal: {path}: cannot be read ({error})") from None
    if found is None:
        raise InputError(f"cal: {path}: was not simulated, expected files of an earlier simulation")
    return dict(found)


def same_detector(options: Options) -> bool:
    """Whether the folder has reference files already; they must be those of these options.

    Raises
    ------
    InputError
        Naming what differs.
    """
    found = found_in(options.folder)
    if found is None:
        return False
    wanted = {"references": options.references} | described(options)
    found = {"references": "survey"} | found
    problems = [
        f"cal: {options.folder}: was simulated with {key} {found.get(key)}, expected {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if problems:
        raise InputError(problems)
    return True
