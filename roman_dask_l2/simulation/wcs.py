"""World coordinates of a simulated exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.detector import BORDER, OMEGA_IDEAL

# --- geometry -----------------------------------------------------------------------------------


Dither = tuple[float, float] | None


def wcs_cards(side: int, dither: Dither = None) -> dict[str, Any]:
    """TAN-SIP header cards of the active array, CRPIX counting from 0.

    A dither (y, x) moves the telescope so that the sky lies by so many pixels elsewhere.
    """
    if dither is None:
        return _cards(side)
    # The pixel that will be at the reference pixel; what the detector does to the sky is the same.
    cards = _cards(side)
    at = cards["CRPIX1"] - dither[1], cards["CRPIX2"] - dither[0]
    ra, dec = astropy_wcs(cards).all_pix2world(*at, 0)
    return cards | {"CRVAL1": float(ra), "CRVAL2": float(dec)}


def astropy_wcs(cards: Mapping[str, Any]) -> Any:
    """The same for astropy, which counts CRPIX from 1."""
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header(dict(cards))
    for key in ("CRPIX1", "CRPIX2"):
        header[key] += 1
    return WCS(header)


def dithered(side: int, dither: Dither, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where positions (full frame) of an exposure without dither lie in this one, (k, 2)."""
    if dither is None or len(y) == 0:
        return np.column_stack([y, x])
    sky = astropy_wcs(_cards(side)).all_pix2world(x - BORDER, y - BORDER, 0)
    to = astropy_wcs(wcs_cards(side, dither)).all_world2pix(*sky, 0, tolerance=1e-4)
    return np.column_stack([to[1] + BORDER, to[0] + BORDER])


def _cards(side: int) -> dict[str, Any]:
    n, scale, angle = side - 2 * BORDER, 0.11 / 3600, np.deg2rad(30.0)
    sin, cos, bend = scale * float(np.sin(angle)), scale * float(np.cos(angle)), 1e-3 / side
    return {
        "WCSAXES": 2, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP",
        "CRPIX1": 0.5 * (n - 1) + 3, "CRPIX2": 0.5 * (n - 1) - 5,
        "CRVAL1": 35.25, "CRVAL2": -28.5, "CUNIT1": "deg", "CUNIT2": "deg",
        "CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos,
        "LONPOLE": 180.0, "RADESYS": "ICRS", "A_ORDER": 2, "B_ORDER": 2,
        "A_2_0": bend, "A_1_1": -0.4 * bend, "A_0_2": 0.2 * bend,
        "B_2_0": -0.3 * bend, "B_1_1": 0.7 * bend, "B_0_2": 1.1 * bend,
    }  # fmt: skip


def relative_area(side: int) -> np.ndarray:
    """Solid angle of the active pixels over (0.11 arcsec)^2: the WCS's Jacobian, (n, n) float32."""
    c = wcs_cards(side)
    u = np.arange(side - 2 * BORDER) - c["CRPIX1"]

    def row(y: int) -> np.ndarray:
        v = y - c["CRPIX2"]
        f = u + c["A_2_0"] * u * u + c["A_1_1"] * u * v + c["A_0_2"] * v * v
        g = v + c["B_2_0"] * u * u + c["B_1_1"] * u * v + c["B_0_2"] * v * v
        fu, fv = 1 + 2 * c["A_2_0"] * u + c["A_1_1"] * v, c["A_1_1"] * u + 2 * c["A_0_2"] * v
        gu, gv = 2 * c["B_2_0"] * u + c["B_1_1"] * v, 1 + c["B_1_1"] * u + 2 * c["B_0_2"] * v
        x, y = (np.deg2rad(c[f"CD{i}_1"] * f + c[f"CD{i}_2"] * g) for i in (1, 2))
        # a tangent plane stretches areas by 1/cos^3 of the distance from its centre
        return (fu * gv - fv * gu) * (1 + x * x + y * y) ** -1.5

    cd = np.deg2rad(1) ** 2 * abs(c["CD1_1"] * c["CD2_2"] - c["CD1_2"] * c["CD2_1"])
    area = np.array([row(y).astype(np.float32) for y in range(u.size)])
    return area * np.float32(cd / OMEGA_IDEAL)


def make_gwcs(side: int, dither: Dither = None) -> Any:
    """The same WCS as a gwcs of the active array."""
    import gwcs
    from astropy import coordinates, units
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf

    c = wcs_cards(side, dither)
    a, b = ({f"c{i}_{j}": c[f"{ax}_{i}_{j}"] for i, j in ((2, 0), (1, 1), (0, 2))} for ax in "AB")
    transform = (
        m.Shift(-c["CRPIX1"]) & m.Shift(-c["CRPIX2"])
        | m.Mapping((0, 1, 0, 1))
        | m.Polynomial2D(2, c1_0=1.0, **a) & m.Polynomial2D(2, c0_1=1.0, **b)
        | m.AffineTransformation2D([[c["CD1_1"], c["CD1_2"]], [c["CD2_1"], c["CD2_2"]]])
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(c["CRVAL1"], c["CRVAL2"], c["LONPOLE"])
    )
    pixels = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    icrs, degrees = coordinates.ICRS(), (units.deg, units.deg)
    sky = cf.CelestialFrame(name="world", reference_frame=icrs, unit=degrees)
    wcs = gwcs.WCS([(pixels, transform), (sky, None)])
    wcs.bounding_box = ((-0.5, side - 2 * BORDER - 0.5),) * 2
    return wcs
