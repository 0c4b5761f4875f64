"""Where a simulated exposure points, as the observatory's files tell: distortion and `wcsinfo`.

Together they give the same sky as the FITS header of the simulation (without aberration of light).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .wcs import Dither, wcs_cards

V2_REF, V3_REF = 1312.95, -1040.78
"""Where the reference pixel lies in the telescope's field, arcsec."""
ROLL_REF, V3_YANGLE, VPARITY = 90.0, -60.0, -1
"""Position angle of the V3 axis; that of the detector's y axis, from V3 (degrees)."""


def make_wcsinfo(side: int, dither: Dither) -> dict[str, Any]:
    """Keys of ``meta.wcsinfo`` that say where the telescope points."""
    cards = wcs_cards(side, dither)
    return {
        "v2_ref": V2_REF, "v3_ref": V3_REF, "vparity": VPARITY, "v3yangle": V3_YANGLE,
        "roll_ref": ROLL_REF, "ra_ref": cards["CRVAL1"], "dec_ref": cards["CRVAL2"],
    }  # fmt: skip


def make_distortion(side: int) -> Any:
    """Astropy model from active pixels (x, y), counted from 0, to V2, V3 (arcsec), with inverse."""
    from astropy.modeling import models as m

    c = wcs_cards(side)
    terms = ((2, 0), (1, 1), (0, 2))
    a, b = ({f"c{i}_{j}": c[f"{ax}_{i}_{j}"] for i, j in terms} for ax in "AB")
    bend = m.Polynomial2D(2, c1_0=1.0, **a) & m.Polynomial2D(2, c0_1=1.0, **b)
    shift = m.Shift(-c["CRPIX1"]) & m.Shift(-c["CRPIX2"])
    # From axes to the east and north to V2, V3, of which V3 points to the position angle ROLL_REF.
    sin, cos = np.sin(np.deg2rad(ROLL_REF)), np.cos(np.deg2rad(ROLL_REF))
    cd = np.array([[c["CD1_1"], c["CD1_2"]], [c["CD2_1"], c["CD2_2"]]])
    plane = m.AffineTransformation2D(np.array([[cos, -sin], [sin, cos]]) @ cd)
    sphere = m.Pix2Sky_TAN() | m.RotateNative2Celestial(V2_REF / 3600, V3_REF / 3600, 180)
    to_v = plane | sphere | m.Scale(3600.0) & m.Scale(3600.0)
    straight = m.Mapping((0, 1, 0, 1))
    model = shift | straight | bend | to_v
    model.inverse = to_v.inverse | straight | _unbend(side, bend) | shift.inverse
    return model


def _unbend(side: int, bend: Any) -> Any:
    """The inverse of `bend` by polynomials that are fitted on a grid reaching beyond the frame."""
    from astropy.modeling import fitting
    from astropy.modeling import models as m

    y, x = np.mgrid[-0.6:0.6:25j, -0.6:0.6:25j] * side
    u, v = bend(x, y, x, y)
    fit = fitting.LinearLSQFitter()
    domain = {"x_domain": (-0.7 * side, 0.7 * side), "y_domain": (-0.7 * side, 0.7 * side)}
    fitted = [fit(m.Polynomial2D(5, **domain), u, v, z) for z in (x, y)]
    return fitted[0] & fitted[1]
