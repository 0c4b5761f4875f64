"""The text of a FITS header with a TAN or TAN-SIP projection, read and checked without astropy."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..system.files import open_regular

log = logging.getLogger(__name__)

_CARD = 80
_PLAIN_CARD = re.compile(
    r"(?P<key>[A-Z0-9_-]{1,8}) *(?<=.{8})= +"
    r"(?:'(?P<text>[^']*)'|(?P<number>[+-]?(?:\d+|\d+\.\d*|\.\d+)(?:E[+-]?\d+)?))"
    r" *(?:/.*)?"
)
_MOST = 1 << 24
"""Bytes that are looked at."""
_EXPECTED = "expected the text of a FITS header with a TAN or TAN-SIP projection"


@dataclass(frozen=True, eq=False)
class TanHeader:
    """A TAN or TAN-SIP projection.

    Attributes
    ----------
    tangent : tuple of float
        The reference pixel (x, y), counted from 0.
    sip : tuple of dict
        For each axis the coefficients of its SIP polynomial, (p, q) to that of u^p v^q, with the
        pixel offset itself included; empty if there is no distortion.
    cd : (2, 2) ndarray
        Pixel offset to projection plane, degrees.
    pole : tuple of float
        CRVAL1, CRVAL2 and LONPOLE, degrees.
    """

    tangent: tuple[float, float]
    sip: tuple[dict[tuple[int, int], float], ...]
    cd: NDArray[np.float64]
    pole: tuple[float, float, float]


def read_tan_header(path: Path, origin: int) -> TanHeader:
    """Read a FITS header as text.

    Calabretta & Greisen 2002 (A&A 395, 1077) for the projection and the default of LONPOLE,
    Shupe et al. 2005 (ASPC 347, 491) for SIP.

    Parameters
    ----------
    path : Path
        Cards of 80 characters, or one card per line.
    origin : int
        Number that CRPIX gives the first pixel, 0 or 1.

    Raises
    ------
    InputError
        If the file cannot be read, or describes something else.
    """
    if origin not in (0, 1):
        raise InputError(f"FITSWCS_ORIGIN {origin}, expected 0 or 1")
    try:
        with open_regular(path, "the text of a FITS header") as file:
            text = file.read(_MOST).decode("ascii")
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}, {_EXPECTED}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not plain text, {_EXPECTED}") from None
    header = _cards(text, path)

    def number(key: str, default: float | None = None) -> float:
        value = header.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            found = f"{key} = {value!r}" if key in header else f"no {key}"
            raise InputError(f"{path}: {found}, expected a number")
        return float(value)

    has_sip = _check(header, path)
    crval1, crval2 = number("CRVAL1"), number("CRVAL2")
    if abs(crval2) > 90:
        raise InputError(f"{path}: CRVAL2 = {crval2}, expected a declination from -90 to 90")
    lonpole = number("LONPOLE", 0.0 if crval2 >= 90 else 180.0)
    tangent = (number("CRPIX1") - origin, number("CRPIX2") - origin)
    cd = _matrix(header, number, path)
    sip = tuple(_polynomial(axis, number) for axis in "AB") if has_sip else ()
    return TanHeader(tangent, sip, cd, (crval1, crval2, lonpole))


def _cards(text: str, path: Path) -> Mapping[str, Any]:
    """Keywords and values of header text in either layout; the cards after END are ignored."""
    lines = [line.rstrip() for line in text.splitlines()]
    cards = [line[i : i + _CARD] for line in lines for i in range(0, len(line), _CARD)]
    header: dict[str, Any] = {}
    for text_card in cards:
        if text_card.rstrip() == "END":
            break
        keyword, value = _card(text_card)
        header.setdefault(keyword, value)
    if not header.keys() & {"CTYPE1", "CRVAL1", "CRPIX1"}:
        raise InputError(f"{path}: no WCS keywords, {_EXPECTED}")
    return header


def _card(text: str) -> tuple[str, Any]:
    """Keyword and value of a card; None if it cannot be read.

    Plain strings and numbers are read here: astropy would cost a quarter of a second for a dozen
    of them, and reads all others.
    """
    if found := _PLAIN_CARD.fullmatch(text):
        if found["text"] is not None:
            return found["key"], found["text"].rstrip()
        number = found["number"]
        return found["key"], int(number) if number.lstrip("+-").isdigit() else float(number)
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd cards matter only if the WCS needs them
            card = fits.Card.fromstring(text.ljust(_CARD))
            return card.keyword, card.value
    except (ValueError, fits.VerifyError):
        return text[:8].strip(), None


def _check(header: Mapping[str, Any], path: Path) -> bool:
    """Refuse what would be read wrongly; return whether there is a SIP distortion."""
    types = tuple(header.get(key) for key in ("CTYPE1", "CTYPE2"))
    if types not in (("RA---TAN", "DEC--TAN"), ("RA---TAN-SIP", "DEC--TAN-SIP")):
        raise InputError(
            f"{path}: CTYPE1, CTYPE2 = {types[0]!r}, {types[1]!r}, "
            "expected 'RA---TAN', 'DEC--TAN' or 'RA---TAN-SIP', 'DEC--TAN-SIP'"
        )
    sip = [name for name in ("A", "B") if f"{name}_ORDER" in header]
    if sip and (len(sip) == 1 or types[0] == "RA---TAN"):
        raise InputError(
            f"{path}: {sip[0]}_ORDER with CTYPE1 = {types[0]!r} and {len(sip)} of A_ORDER, B_ORDER,"
            " expected a SIP distortion to have both and 'RA---TAN-SIP'"
        )
    for name in sip:
        order = header[f"{name}_ORDER"]
        if isinstance(order, bool) or order not in range(10):
            raise InputError(f"{path}: {name}_ORDER = {order!r}, expected 0 to 9")
    unread = re.compile(r"PV\d+_\d+|CROTA\d|CPDIS\d|CQDIS\d|D2IMDIS\d")
    for key, value in header.items():
        if unread.fullmatch(key) and value != 0:
            raise InputError(f"{path}: {key} is not supported, {_EXPECTED} and CD or PC")
    for key in ("CUNIT1", "CUNIT2"):
        if header.get(key, "deg") not in ("deg", "degree", "degrees"):
            raise InputError(f"{path}: {key} = {header[key]!r}, expected 'deg'")
    system = header.get("RADESYS", header.get("RADECSYS", "ICRS"))
    if system == "FK5" and header.get("EQUINOX", 2000.0) == 2000.0:
        log.warning("%s: FK5 coordinates taken as ICRS, at most 0.1 arcsec apart", path)
    elif system != "ICRS":
        raise InputError(f"{path}: RADESYS = {system!r}, expected 'ICRS'")
    return bool(sip)


def _matrix(
    header: Mapping[str, Any], number: Callable[..., float], path: Path
) -> NDArray[np.float64]:
    """Pixel offset to projection plane (degrees), from CD, or PC and CDELT."""
    pairs = [(i, j) for i in (1, 2) for j in (1, 2)]
    if any(f"CD{i}_{j}" in header for i, j in pairs):
        matrix = np.array([number(f"CD{i}_{j}", 0.0) for i, j in pairs]).reshape(2, 2)
    elif "CDELT1" in header and "CDELT2" in header:
        pc = np.array([number(f"PC{i}_{j}", float(i == j)) for i, j in pairs]).reshape(2, 2)
        matrix = np.array([[number("CDELT1")], [number("CDELT2")]]) * pc
    else:
        raise InputError(f"{path}: no pixel scale, expected CDi_j, or CDELT1 and CDELT2")
    if np.linalg.det(matrix) == 0:
        raise InputError(f"{path}: singular CD or PC matrix, expected one that can be inverted")
    return matrix


def _polynomial(axis: str, number: Callable[..., float]) -> dict[tuple[int, int], float]:
    """Coefficients of the SIP polynomial of an axis, "A" or "B"; see `TanHeader`."""
    order = int(number(f"{axis}_ORDER"))
    powers = [(p, q) for p in range(order + 1) for q in range(order + 1 - p)]
    found = {(p, q): number(f"{axis}_{p}_{q}", 0.0) for p, q in powers}
    linear = (1, 0) if axis == "A" else (0, 1)
    found[linear] = found.get(linear, 0.0) + 1  # the pixel itself, plus its distortion
    return found
