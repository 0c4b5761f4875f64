"""Solid angles of pixels, by window: small, picklable, and the same bits through any window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.detector import OMEGA_IDEAL
from ..core.jit import kernel


@dataclass(frozen=True, eq=False)
class AreaSpline:
    """Pixel areas of a whole detector as a bicubic spline: small, picklable, evaluated by window.

    Attributes
    ----------
    spline : scipy.interpolate.RectBivariateSpline
        Area / `OMEGA_IDEAL` as a function of (y, x) of the WCS.
    active_side : int
        Side of the active array, pixels.
    offset : int
        Added to both pixel coordinates before the WCS is evaluated.
    """

    spline: Any
    active_side: int
    offset: int = 0

    def window(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float64]:
        """Areas of the active pixels in rows ``y0:y1`` and columns ``x0:x1``.

        A pixel has the same bits whatever window it is asked through.

        Returns
        -------
        ndarray of float64, shape (y1 - y0, x1 - x0)
            Solid angle / `OMEGA_IDEAL`.

        Raises
        ------
        IndexError
            If the window leaves the active array, where the spline is not defined.
        """
        if not (0 <= y0 <= y1 <= self.active_side and 0 <= x0 <= x1 <= self.active_side):
            raise IndexError(
                f"window [{y0}:{y1}, {x0}:{x1}] outside {self.active_side} active pixels"
            )
        if y0 == y1 or x0 == x1:
            return np.empty((y1 - y0, x1 - x0))
        y, x = (np.arange(a, b, dtype=float) + self.offset for a, b in ((y0, y1), (x0, x1)))
        return np.asarray(self.spline(y, x), np.float64)


@dataclass(frozen=True, eq=False)
class TanArea:
    """Solid angle of a pixel of a TAN or TAN-SIP header, in closed form.

    Only sums, products and square roots: the same bits on every processor, which sine, cosine and
    matrix products of the libraries are not.

    Attributes
    ----------
    origin : tuple of float
        Pixel (x, y) of the tangent point.
    cd : ndarray (2, 2)
        Pixel offset to projection plane, deg.
    sip : ndarray (2, n, n) or None
        Coefficients of ``u^p v^q`` that give the undistorted offsets, the pixel itself included.
    """

    origin: tuple[float, float]
    cd: NDArray[np.float64]
    sip: NDArray[np.float64] | None = None

    def __call__(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Solid angles at columns `x` and rows `y` (positions, one axis each), sr, (y, x)."""
        x, y = (np.asarray(a, float) for a in (x, y))
        sip = np.zeros((2, 0, 0)) if self.sip is None else self.sip
        out = np.empty((len(y), len(x)))
        _tan_areas(x - self.origin[0], y - self.origin[1], np.radians(1.0) * self.cd, sip, out)
        return out

    def window(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float64]:
        """Solid angle / `OMEGA_IDEAL` of the active pixels in rows ``y0:y1``, columns ``x0:x1``."""
        return self(np.arange(x0, x1), np.arange(y0, y1)) / OMEGA_IDEAL


@kernel
def _tan_areas(u, v, cd, sip, out):
    """Fill `out` (y, x), sr, at offsets u, v (pixels) from the tangent point; `cd` in radians.

    A plane element at the distance r from the tangent point (in units of the sphere's radius)
    covers ``(1 + r^2)^(-3/2)`` of itself on the sphere: R = cot(theta) in Calabretta & Greisen
    2002 (A&A 395, 1077), section 5.1.3. A SIP distortion (f, g) stretches it by
    ``f_u g_v - f_v g_u`` first; polynomials in u, whose coefficients are polynomials in v.
    """
    nx, terms = len(u), sip.shape[1]
    scale = abs(cd[0, 0] * cd[1, 1] - cd[0, 1] * cd[1, 0])
    values = np.empty((2, nx))
    by_u, by_v = np.zeros((2, nx)), np.zeros((2, nx))
    for y in range(len(v)):
        row = out[y]
        for axis in range(2):
            f, fu, fv = values[axis], by_u[axis], by_v[axis]
            for x in range(nx):
                f[x] = 0.0
                fu[x] = 0.0
                fv[x] = 0.0
            for p in range(terms - 1, -1, -1):
                c, c_v = 0.0, 0.0
                for q in range(terms - 1, -1, -1):
                    c_v = c_v * v[y] + c
                    c = c * v[y] + sip[axis, p, q]
                for x in range(nx):
                    fu[x] = fu[x] * u[x] + f[x]
                    f[x] = f[x] * u[x] + c
                    fv[x] = fv[x] * u[x] + c_v
        if terms == 0:
            for x in range(nx):
                values[0, x] = u[x]
                values[1, x] = v[y]
        f, g = values[0], values[1]
        for x in range(nx):
            xi = cd[0, 0] * f[x] + cd[0, 1] * g[x]
            eta = cd[1, 0] * f[x] + cd[1, 1] * g[x]
            secant2 = 1.0 + xi * xi + eta * eta
            row[x] = scale / (secant2 * np.sqrt(secant2))
        if terms > 0:
            fu, fv, gu, gv = by_u[0], by_v[0], by_u[1], by_v[1]
            for x in range(nx):
                row[x] *= abs(fu[x] * gv[x] - fv[x] * gu[x])
