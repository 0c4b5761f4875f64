"""Is what odd files became as expected? For the demonstration and the tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asdf
import numpy as np

from ..config.model import load_config
from ..core.detector import BORDER
from ..core.dq import PIXEL
from ..simulation.odd import HALO, ODD, Odd, truth_at
from ..simulation.odd_edits import LINK
from ..simulation.settings import Simulation

SIGMAS = 5.0
"""A rate that is further from the truth is wrong."""
CLOSE = 0.02
"""Largest difference of median rates where values were rounded, DN/s: float16 has 11 bits."""
SKY = 0.05
"""Largest median of an image whose sky was subtracted, DN/s; the sky has 0.4."""


@dataclass
class Became:
    """What a calibration ended with.

    Attributes
    ----------
    status : int
        As that of the command line; -1 if it took too long.
    lines : list of str
        Why it was refused or failed, one line each.
    warnings : list of str
    l2 : Path or None
        The image.
    """

    status: int
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    l2: Path | None = None


@dataclass(frozen=True)
class Image:
    """What is compared of a Level-2 file, active pixels (N-8, N-8); `end` only with SLICEOUT."""

    rate: np.ndarray
    data: np.ndarray
    err: np.ndarray
    dq: np.ndarray
    end: np.ndarray | None
    region: str
    footprint: np.ndarray
    others: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> Image:
        """Read an L2 file."""
        # asdf takes names with # or ? in them for addresses of the network.
        with open(path, "rb") as raw, asdf.open(raw, memmap=False, lazy_load=False) as file:
            roman = file["roman"]
            end = file["processinfo"].get("endslice")
            others = {n: np.array(roman[n]) for n in ("var_poisson", "chisq", "dumo")}
            return cls(
                np.array(roman.get("data_withsky", roman["data"])),
                np.array(roman["data"]),
                np.array(roman["err"]).astype(np.float32),
                np.array(roman["dq"]),
                None if end is None else np.array(end),
                str(roman["meta"]["wcsinfo"]["s_region"]),
                _footprint(roman["meta"]["wcs"], np.shape(roman["data"])),
                others,
            )


def _footprint(wcs: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Mean position of the corners, degrees."""
    right, top = shape[1] - 1, shape[0] - 1
    x, y = np.array([0, right, right, 0]), np.array([0, 0, top, top])
    return np.mean(np.array(wcs(x, y)), axis=1)


def unexpected(case: Odd, became: Became, new: set[Path]) -> list[str]:
    """What is not as expected of status, messages and new files."""
    return list(_unexpected(case, became, new))


def _unexpected(case: Odd, became: Became, new: set[Path]) -> Iterator[str]:
    allowed = " or ".join(map(str, case.status))
    if became.status not in case.status:
        said = f": {became.lines[0]}" if became.lines else ""
        yield f"status {became.status} instead of {allowed}{said}"
    hidden = sorted(path.name for path in new if path.name.startswith("."))
    if hidden:
        yield f"left behind: {', '.join(hidden)}"
    if became.status == 2:
        text = "\n".join(became.lines)
        if new and not hidden:
            yield f"refused, but there are {', '.join(sorted(path.name for path in new))}"
        for word in case.words:
            if word.casefold() not in text.casefold():
                yield f"{word!r} is not in the message: {text}"
        if any("\n" in line for line in became.lines):
            yield f"a message of several lines: {text}"
    if became.status == 0:
        text = "\n".join(became.warnings)
        for word in case.warning:
            if text.count(word) != 1:
                yield f"{word!r} is in {text.count(word)} warnings instead of one: {text}"


def wrong_image(name: str, made: Simulation, image: Image, usual: Image) -> list[str]:
    """What is not as expected of a case's image, beside that of ordinary files."""
    also = _ALSO.get(name)
    return [
        *_wrong_image(ODD[name], made, image, usual),
        *([] if also is None else also(made, image)),
    ]


def _wrong_image(case: Odd, made: Simulation, image: Image, usual: Image) -> Iterator[str]:
    bad = ~np.isfinite(image.data) | ~np.isfinite(image.err) | ~np.isfinite(image.rate)
    if unflagged := np.count_nonzero(bad & (image.dq & PIXEL["DO_NOT_USE"] == 0)):
        yield f"{unflagged} pixels are not finite and not DO_NOT_USE"
    y, x = (v - BORDER for v in case.at)
    if missing := [flag for flag in case.flags if not image.dq[y, x] & PIXEL[flag]]:
        yield f"the odd pixel is not {' | '.join(missing)}"
    if case.rate and not image.dq[y, x] & PIXEL["DO_NOT_USE"]:
        rate, err, truth = image.rate[y, x], image.err[y, x], truth_at(made, case.at)[0]
        if not abs(rate - truth) <= SIGMAS * err:
            yield f"rate {rate:.3f} +- {err:.3f} instead of {truth:.3f}, and usable"
    if case.sky and not abs(np.nanmedian(image.data)) < SKY:
        yield f"the sky is not subtracted: median {np.nanmedian(image.data):.3f} DN/s"
    if case.same == "close":
        off = abs(np.nanmedian(image.rate) - np.nanmedian(usual.rate))
        if not off < CLOSE or np.array_equal(image.dq, usual.dq) is False:
            yield f"median rate off by {off:.4f} DN/s, or other flags, than of ordinary files"
    elif case.same:
        use = np.ones(image.dq.shape, bool)
        if case.same == "beyond":
            use[max(y - HALO, 0) : y + HALO + 1, max(x - HALO, 0) : x + HALO + 1] = False
        pairs = [("data_withsky", image.rate, usual.rate), ("dq", image.dq, usual.dq)]
        pairs += [("err", image.err, usual.err)]
        pairs += [(name, image.others[name], usual.others[name]) for name in usual.others]
        if case.same == "all":
            pairs.append(("data", image.data, usual.data))
        for name, ours, theirs in pairs:
            other = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs)) & use
            if n := np.count_nonzero(other):
                yield f"{name} of {n} pixels is not that of ordinary files"


def _wrong_endslice(made: Simulation, image: Image) -> list[str]:
    """Is the end of the saturating pixel's fit the resultant before it saturates?"""
    at = ODD["many_resultants"].at
    first = truth_at(made, at)[1]
    found = None if image.end is None else int(image.end[at[0] - BORDER, at[1] - BORDER])
    return [] if found == first - 1 else [f"endslice {found} instead of {first - 1}"]


def _wrong_link(made: Simulation, image: Image) -> list[str]:
    """Is the link still one, with the image where it leads?"""
    link = made.directory / "l2.asdf"
    if not link.is_symlink():
        return ["the link was replaced by a file"]
    return [] if (made.directory / LINK).stat().st_size else [f"{LINK} is empty"]


def _wrong_region(made: Simulation, image: Image) -> list[str]:
    """Does s_region lie where the coordinates of the image do?"""
    numbers = np.array(re.findall(r"-?[\d.]+(?:[eE][-+]?\d+)?", image.region), float)
    if numbers.size == 0 or numbers.size % 2:
        return [f"s_region is {image.region!r}"]
    off = np.abs(numbers.reshape(-1, 2).mean(axis=0) - image.footprint).max()
    return [] if off < 1e-3 else [f"s_region is {off:.3f} degrees from the image"]


def _wrong_layers(made: Simulation, image: Image) -> list[str]:
    """Are the layers finite beyond the odd pixel's halo?"""
    config = load_config(made.config)
    assert config.NOISE is not None
    with asdf.open(config.NOISE.OUT, memmap=False, lazy_load=False) as file:
        noise = np.array(file["noise"])
    wrong = []
    for label, layer in zip(config.NOISE.LAYER, noise, strict=True):
        n = np.count_nonzero(~np.isfinite(layer))
        if n > (2 * HALO + 1) ** 2:
            wrong.append(f"layer {label}: {n} pixels are not finite")
    return wrong


_ALSO: dict[str, Callable[[Simulation, Image], list[str]]] = {
    "many_resultants": _wrong_endslice,
    "symlink_out": _wrong_link,
    "region": _wrong_region,
    "gain_zero": _wrong_layers,
    "flat_infinite": _wrong_layers,
}
"""What else is looked at."""
