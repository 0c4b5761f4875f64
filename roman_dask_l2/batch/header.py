"""Placeholders that come from the header of the exposure's Level-1 file."""

from __future__ import annotations

import os
import re

from ..errors import InputError
from ..io.layout import read_head

PYIMCOM = {
    "F062": "R062",
    "F087": "Z087",
    "F106": "Y106",
    "F129": "J129",
    "F146": "W146",
    "F158": "H158",
    "F184": "F184",
    "F213": "K213",
}
"""Names of the mission's filters in PyIMCOM."""
HEADER = ("optical_element", "pyimcom_filter")
"""Placeholders that need no value in the list of exposures."""
_ELEMENT = re.compile(rb"\boptical_element: *['\"]?(\w+)")


def header_values(path: str | os.PathLike[str]) -> dict[str, str]:
    """Values of `HEADER` for a Level-1 file. Its tree is searched, not parsed: a campaign may have
    tens of thousands.

    Raises
    ------
    InputError
        If the file cannot be read, has no optical element, or one that PyIMCOM has no name for.
    """
    head, _ = read_head(path)
    found = {name.decode() for name in _ELEMENT.findall(head)}
    if len(found) != 1:
        said = f"{len(found)} of them" if found else "none"
        raise InputError(f"{path}: optical_element: {said}, expected one")
    element = found.pop()
    if element not in PYIMCOM:
        raise InputError(
            f"{path}: optical_element is {element}, PyIMCOM has names for {', '.join(PYIMCOM)}"
        )
    return {"optical_element": element, "pyimcom_filter": PYIMCOM[element]}
