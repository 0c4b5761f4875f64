"""What files say of themselves: their tag, kind, detector and optical element, against what is
expected of them. A file that says nothing is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..core.exposure import Exposure
from ..core.reference_types import REFTYPES
from ..system.foreign import load_asdf
from .layout import Layout

ANY_DETECTOR = {"dark_decay"}
"""Files with entries for all detectors; their own ``meta.instrument.detector`` tells nothing."""

OF_AN_ELEMENT = {"flat", "distortion"}
"""Files made for one optical element. Darks carry one too, that of the dark exposures."""

RAW = "asdf://stsci.edu/datamodels/roman/tags/wfi_science_raw-"
"""How the tag of a Level 1 file begins."""

_SILENT = {"", "?", "NOTCONFIGURED", "NONE", "UNKNOWN", "NA"}
"""What stands in ``meta`` where nothing is known."""


def contradictions(key: str, layout: Layout, exposure: Exposure) -> Iterator[str]:
    """What a reference file says of itself that does not fit its key or the exposure.

    Parameters
    ----------
    key : str
        Of CALDIR.
    layout : Layout
    exposure : Exposure

    Yields
    ------
    str
        One sentence for each contradiction.
    """
    place = f"CALDIR.{key}: {layout.path}: meta"
    reftype = _said(layout, "reftype")
    if reftype and _plain(reftype) not in REFTYPES[key]:
        yield f"{place}.reftype is {reftype!r}, expected {REFTYPES[key][0]}"
    detector = _said(layout, "instrument", "detector")
    if detector and key not in ANY_DETECTOR and _plain(detector) != _plain(exposure.detector):
        yield (
            f"{place}.instrument.detector is {detector!r}, expected {exposure.detector}, which "
            "made the exposure"
        )
    element = _said(layout, "instrument", "optical_element")
    if element and key in OF_AN_ELEMENT and _plain(element) != _plain(exposure.optical_element):
        yield (
            f"{place}.instrument.optical_element is {element!r}, expected "
            f"{exposure.optical_element}, which the exposure was made with"
        )


def _said(layout: Layout, *key: str) -> str:
    """A text of ``roman.meta``; empty where the file says nothing."""
    value = layout.value("roman", "meta", *key)
    text = "" if value is None or isinstance(value, dict | list) else str(value)
    return "" if _plain(text) in _SILENT else text


def _plain(text: str) -> str:
    """Without the differences that are only spelling: ``wfi_04`` and ``WFI04``."""
    return re.sub(r"[^A-Z0-9?]", "", text.upper())


def wrong_tag(layout: Layout) -> str:
    """What is wrong with the tag of a Level 1 file; empty if it can be read.

    The L2 file takes its metadata from there, through roman_datamodels.
    """
    if layout.tag in _known_tags():
        return ""
    found = f"the tag {layout.tag}" if layout.tag else "no tag"
    versions = [tag.removeprefix(RAW) for tag in _known_tags()]
    most = f"{RAW}{versions[0]} to {versions[-1]}" if versions else f"{RAW}*"
    return (
        f"{layout.path}: roman has {found}, expected one that the installed roman_datamodels "
        f"knows, {most}"
    )


@lru_cache(maxsize=1)
def _known_tags() -> tuple[str, ...]:
    """The tags of Level 1 files that roman_datamodels knows, the oldest first.

    They are looked up in the manifests that it reads itself: importing it takes a second.
    """
    found: set[str] = set()
    spec = find_spec("rad")
    for folder in (spec and spec.submodule_search_locations) or ():
        for manifest in Path(folder).glob("resources/manifests/*.yaml"):
            found.update(re.findall(rf"{RAW}[\d.]+", manifest.read_text(encoding="utf-8")))
    if not found:  # laid out in another way
        extensions = load_asdf().get_config().extensions
        tags = (tag.tag_uri for extension in extensions for tag in extension.tags)
        found.update(tag for tag in tags if tag.startswith(RAW))
    return tuple(sorted(found, key=_by_version))


def _by_version(tag: str) -> list[int]:
    return [int(n) for n in tag.removeprefix(RAW).split(".") if n]
