"""World coordinates from the telescope's pointing and a distortion file.

The coordinates V2, V3 are angles on the sky, fixed to the telescope; the distortion file turns
pixels into them, the pointing turns them into right ascension and declination.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import InputError
from .asdf_file import open_asdf
from .layout import Layout
from .wcs import Wcs, from_gwcs

log = logging.getLogger(__name__)

_EXPECTED = "expected an astropy model from (x, y) to V2, V3 (arcsec)"
_ARCSEC = 3600.0
_RANGES = {
    "v2_ref": (180 * _ARCSEC, "arcsec"),
    "v3_ref": (90 * _ARCSEC, "arcsec"),
    "roll_ref": (360.0, "degrees"),
    "dec_ref": (90.0, "degrees"),
    "ra_ref": (360.0, "degrees"),
}
"""Key of ``meta.wcsinfo`` -> largest magnitude, unit."""
UNKNOWN = -999990
"""Numbers below it mean "not known" in the mission's metadata (which write -999999)."""
_MOST = 1e-3
"""The scale factor of the velocity aberration is nearer to 1: 30 km/s are 1e-4 of light's speed."""


def pointed_wcs(l1: Layout, distortion: Path) -> Wcs:
    """The WCS of an exposure from its pointing and a distortion file.

    Parameters
    ----------
    l1 : Layout
        The Level 1 file: ``meta.wcsinfo`` and ``meta.velocity_aberration``.
    distortion : Path
        ASDF file with ``coordinate_distortion_transform``, an astropy model from active pixels
        (x, y), counted from 0, to V2 and V3 (arcsec).

    Returns
    -------
    Wcs
        Its gwcs has the frames detector, v2v3, v2v3vacorr and world.

    Raises
    ------
    InputError
        If the metadata or the file cannot be used.
    """
    pointing = _pointing(l1)
    scale = _aberration(l1)
    where = f"CALDIR.distortion: {distortion}: coordinate_distortion_transform"
    try:
        with open_asdf(distortion) as file:
            transform = file["roman"]["coordinate_distortion_transform"]
            box = _check(transform, where)
            if box is not None:  # it is that of the whole gwcs
                transform = transform.copy()
                del transform.bounding_box
            # Here, while the file is open: arrays of the transform may not have been read yet.
            wcs = from_gwcs(_gwcs(transform, scale, pointing), where)
    except InputError as error:
        if str(error).startswith("CALDIR"):
            raise
        raise InputError(f"CALDIR.distortion: {error}, {_EXPECTED}") from None
    except OSError as error:
        raise InputError(
            f"CALDIR.distortion: {distortion}: {error.strerror or error}, {_EXPECTED}"
        ) from None
    except Exception as error:  # a file can be broken in every way that YAML and asdf know
        log.debug("distortion", exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"CALDIR.distortion: {distortion}: {reason[:200]}, {_EXPECTED}") from None
    return replace(wcs, box=box, distortion=distortion)


def _pointing(l1: Layout) -> dict[str, float]:
    """The angles of ``meta.wcsinfo``; all that are wrong are told at once."""
    found, problems = {}, []
    for key, known in _RANGES.items():
        try:
            found[key] = _angle(l1, key, *known)
        except InputError as error:
            problems += error.problems
    if len(problems) == len(_RANGES):
        raise InputError(
            f"{l1.path}: meta.wcsinfo has no usable {', '.join(_RANGES)}, expected numbers, as the "
            "WCS is made from the pointing"
        )
    if problems:
        raise InputError(problems)
    return found


def _angle(l1: Layout, key: str, most: float, unit: str) -> float:
    value = l1.value("roman", "meta", "wcsinfo", key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most
    if not usable:
        raise InputError(
            f"{l1.path}: meta.wcsinfo.{key} is {value!r}, expected {unit} from {-most:g} to "
            f"{most:g}, as the WCS is made from the pointing"
        )
    return float(value)


def _aberration(l1: Layout) -> float:
    """Scale factor of the velocity aberration; 1 where the file does not know it."""
    value = l1.value("roman", "meta", "velocity_aberration", "scale_factor")
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if value is None or (number and value < UNKNOWN):
        log.warning(
            "%s: no meta.velocity_aberration.scale_factor: the WCS has no velocity aberration",
            l1.path,
        )
        return 1.0
    if not number or abs(value - 1) > _MOST:
        raise InputError(
            f"{l1.path}: meta.velocity_aberration.scale_factor is {value!r}, expected a number "
            f"within {_MOST:g} of 1"
        )
    return float(value)


def _check(transform: Any, where: str) -> Any:
    """Refuse what is no distortion; return the model's bounding box, in the order x, y, if any."""
    from astropy.modeling import Model

    if not isinstance(transform, Model):
        raise InputError(f"{where} is {type(transform).__name__}, {_EXPECTED}")
    ends = transform.n_inputs, transform.n_outputs
    if ends != (2, 2):
        raise InputError(f"{where} has {ends[0]} inputs and {ends[1]} outputs, {_EXPECTED}")
    try:
        return transform.bounding_box.bounding_box(order="F")
    except NotImplementedError:  # astropy's way to say that it has none
        return None


def _gwcs(transform: Any, scale: float, pointing: dict[str, float]) -> Any:
    """Detector to V2, V3, to the same without aberration, to the sky."""
    import gwcs
    from astropy import units as u
    from astropy.coordinates import ICRS
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf
    from gwcs.geometry import CartesianToSpherical, SphericalToCartesian

    v2, v3 = pointing["v2_ref"], pointing["v3_ref"]
    apparent = m.Identity(2)
    if scale != 1:
        shifts = m.Shift((1 - scale) * v2) & m.Shift((1 - scale) * v3)
        apparent = m.Scale(scale) & m.Scale(scale) | shifts
    turns = [
        v2 / _ARCSEC, -v3 / _ARCSEC, pointing["roll_ref"], pointing["dec_ref"], -pointing["ra_ref"]
    ]  # fmt: skip
    sky = (
        m.Scale(1 / _ARCSEC) & m.Scale(1 / _ARCSEC)
        # Its inverse must give V2 around 0, not around 360 degrees.
        | SphericalToCartesian(wrap_lon_at=180)
        | m.RotationSequence3D(turns, "zyxyz")
        | CartesianToSpherical(wrap_lon_at=360)
    )
    arcsec = (u.arcsec, u.arcsec)

    def plane(name: str) -> Any:
        return cf.Frame2D(name=name, axes_order=(0, 1), axes_names=("v2", "v3"), unit=arcsec)

    detector = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    world = cf.CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    return gwcs.WCS(
        [
            (detector, transform),
            (plane("v2v3"), apparent),
            (plane("v2v3vacorr"), sky),
            (world, None),
        ]
    )
