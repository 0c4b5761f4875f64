"""The world coordinates of an exposure, from a FITS header, a gwcs file or the L1 itself, and the
solid angle of its pixels.

Pixels are those of the active array (side ``N - 8``), counted from 0, x along columns.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.detector import BORDER, OMEGA_IDEAL
from ..errors import InputError
from ..system.foreign import alone
from .asdf_file import open_asdf
from .fits_header import TanHeader, read_tan_header

if TYPE_CHECKING:
    from .areas import AreaSpline, TanArea

log = logging.getLogger(__name__)

_SIP = "sip"
_GWCS_EXPECTED = "expected an ASDF file with a gwcs under `wcs` or `roman.meta.wcs`"


class _Deferred:
    """A gwcs that is made when it is first needed: its packages take a second to be imported."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def get(self) -> Any:
        with alone():
            if self._made is None:
                self._made = self._make()
            return self._made


@dataclass(frozen=True, eq=False)
class Wcs:
    """World coordinates of the active pixels.

    Attributes
    ----------
    model : gwcs.WCS
        Pixel (x, y), counted from 0, to ICRS right ascension and declination in degrees. Its
        bounding box is not used here: pixels next to the array have coordinates too.
    north : bool
        Whether the exposure lies on the northern hemisphere.
    exact : TanArea or None
        Solid angles in closed form, where the WCS came from a FITS header.
    box : tuple or None
        Bounding box that the gwcs keeps, ((x, x), (y, y)); None: the outer edges of the pixels.
    distortion : Path or None
        The distortion file that the WCS was made from.
    """

    model: Any
    north: bool
    exact: TanArea | None = None
    box: Any = None
    distortion: Path | None = None

    def _model(self) -> Any:
        return self.model.get() if isinstance(self.model, _Deferred) else self.model

    def gwcs(self, active_side: int) -> Any:
        """A copy of the gwcs for an array of `active_side` pixels, fit for ``meta.wcs``.

        Returns
        -------
        gwcs.WCS
            With `pixel_shape` and `bounding_box` (the outer edges of the pixels, or `box`) set,
            and with a fitted inverse if there is a SIP distortion.
        """
        model = copy.deepcopy(self._model())
        if sip := _find_sip(model):
            sip.inverse = _inverse_of_sip(sip, model.pipeline[0].transform, active_side)
        edges = (-0.5, active_side - 0.5)
        model.bounding_box = (edges, edges) if self.box is None else self.box
        model.pixel_shape = (active_side, active_side)
        return model

    def sky(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Right ascension and declination (degrees, ICRS) of pixel positions (x, y)."""
        return _sky(self._model(), x, y)

    def pixel_area(self, x: ArrayLike, y: ArrayLike, half: float = 1.0) -> NDArray[np.float64]:
        """Solid angle of pixels.

        The Jacobian determinant of pixel to sky, by central differences between
        ``position - half`` and ``position + half``. The sky is taken in the zenithal equal-area
        projection (Calabretta & Greisen 2002, A&A 395, 1077, ZEA) about the celestial
        pole on the exposure's side: rho = 2 sin(angle from the pole / 2), X = rho cos(ra),
        Y = rho sin(ra). It has no singularity on that side.

        Parameters
        ----------
        x, y : array_like
            Pixel positions, broadcast against each other.
        half : float
            Half the width of the differences, pixels; 1 is what romanimpreprocess 1.0.0 agrees
            with best. Rounding of the sky coordinates leaves a noise of up to 3e-9 / `half` of the
            area.

        Returns
        -------
        ndarray of float64
            Solid angle, sr.
        """
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        xx, yx = self._equal_area(x + half, y) - self._equal_area(x - half, y)
        xy, yy = self._equal_area(x, y + half) - self._equal_area(x, y - half)
        return np.asarray(np.abs(xx * yy - xy * yx) / (2 * half) ** 2)

    def _equal_area(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        ra, dec = self.sky(x, y)
        rho = 2 * np.sin(np.radians(90 - dec if self.north else 90 + dec) / 2)
        ra = np.radians(ra)
        return np.stack([rho * np.cos(ra), rho * np.sin(ra)])

    def areas(self, active_side: int, offset: int = 0, step: int = 32) -> AreaSpline | TanArea:
        """Pixel areas of the whole active array, by window.

        Parameters
        ----------
        active_side : int
            Side of the active array, pixels.
        offset : int
            Added to both coordinates: 0 is right, 4 is what romanimpreprocess 1.0.0 does.
        step : int
            Largest distance of the points where areas are looked at, pixels.

        Returns
        -------
        TanArea or AreaSpline
            In closed form where the WCS came from a FITS header, else a bicubic spline between
            areas by differences.

        Raises
        ------
        InputError
            If the WCS has no finite, positive area somewhere on the array.
        """
        last = active_side - 1
        grid = np.linspace(offset, last + offset, max(-(-last // step), 3) + 1)
        if self.exact is not None:
            _check_areas(self.exact(grid, grid), active_side)
            x, y = self.exact.origin
            return replace(self.exact, origin=(x - offset, y - offset))

        from scipy.interpolate import RectBivariateSpline

        from .areas import AreaSpline

        # Rounding of the sky coordinates would make the spline noisy, so take wider differences,
        # whose noise is less, and extrapolate (they are quadratic in `half`) to one pixel.
        near, far = (
            self.pixel_area(grid[None, :], grid[:, None], half) / OMEGA_IDEAL for half in (2.0, 4.0)
        )
        area = near - (far - near) * (2**2 - 1**2) / (4**2 - 2**2)
        _check_areas(area, active_side)
        return AreaSpline(RectBivariateSpline(grid, grid, area, s=0), active_side, offset)


def _check_areas(area: NDArray[np.float64], active_side: int) -> None:
    if not (np.isfinite(area).all() and (area > 0).all()):
        raise InputError(
            f"WCS: pixels without a finite, positive solid angle, expected a smooth WCS over "
            f"{active_side} x {active_side} active pixels"
        )


def load_wcs(fitswcs: Path | None, gwcs: Path | None, l1_wcs: Any = None, origin: int = 0) -> Wcs:
    """The WCS of an exposure from the first source given: FITS header, gwcs file, L1.

    Parameters
    ----------
    fitswcs : Path or None
        Text of a FITS header (80-character cards, or one card per line).
    gwcs : Path or None
        ASDF file with a gwcs under ``wcs`` or ``roman.meta.wcs``.
    l1_wcs : gwcs.WCS or None
        ``meta.wcs`` of the L1 file.
    origin : int
        Number that CRPIX of `fitswcs` gives the first pixel: 0, as `sim_to_isim` writes it, or 1,
        the FITS standard.

    Raises
    ------
    InputError
        If there is no source, or it cannot be used.
    """
    if fitswcs is not None:
        return _from_fits(Path(fitswcs), origin)
    if gwcs is not None:
        return _from_asdf(Path(gwcs))
    if l1_wcs is not None:
        return from_gwcs(l1_wcs, "meta.wcs of the L1 file")
    raise InputError(
        "there is no WCS: expected FITSWCS or GWCS in the configuration, meta.wcs in the L1 file, "
        "or a distortion file in CALDIR, for a WCS from the pointing"
    )


# --- FITS header ---


def _from_fits(path: Path, origin: int) -> Wcs:
    """The WCS of a FITS header; its gwcs is made when it is asked for."""
    from .areas import TanArea

    header = read_tan_header(path, origin)
    coefficients = None
    if header.sip:
        coefficients = np.zeros((2, 10, 10))
        for axis, polynomial in enumerate(header.sip):
            for power, value in polynomial.items():
                coefficients[(axis, *power)] = value
    exact = TanArea(header.tangent, header.cd, coefficients)
    return Wcs(_Deferred(lambda: _gwcs_of_fits(header)), header.pole[1] >= 0, exact)


def _gwcs_of_fits(header: TanHeader) -> Any:
    """The gwcs of a header."""
    import gwcs
    from astropy import units as u
    from astropy.coordinates import ICRS
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf

    x, y = header.tangent
    transform = m.Shift(-x) & m.Shift(-y)
    if header.sip:
        polynomials = [
            m.Polynomial2D(
                max(p + q for p, q in terms), **{f"c{p}_{q}": v for (p, q), v in terms.items()}
            )
            for terms in header.sip
        ]
        distortion = m.Mapping((0, 1, 0, 1)) | polynomials[0] & polynomials[1]
        distortion.name = _SIP
        transform = transform | distortion
    rotation = m.RotateNative2Celestial(*header.pole)
    transform = transform | m.AffineTransformation2D(header.cd) | m.Pix2Sky_TAN() | rotation
    detector = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    world = cf.CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    return gwcs.WCS([(detector, transform), (world, None)])


def _find_sip(model: Any) -> Any:
    """The distortion part of a gwcs made by `_gwcs_of_fits`, or None."""
    transform = model.pipeline[0].transform
    while getattr(transform, "op", None) == "|":  # a chain: ((shift | sip) | affine) | ...
        if transform.right.name == _SIP:
            return transform.right
        transform = transform.left
    return None


def _inverse_of_sip(sip: Any, transform: Any, active_side: int) -> Any:
    """Polynomials that undo a SIP distortion over an array, by least squares.

    Without an inverse the gwcs could not be inverted at all: gwcs 1.0 fails on its own
    approximation, and the A/B polynomials have no analytic one.
    """
    from astropy.modeling import fitting
    from astropy.modeling import models as m

    shift_x, shift_y = transform[0], transform[1]
    pixel = np.linspace(-0.5, active_side - 0.5, 40)
    u, v = np.meshgrid(shift_x(pixel), shift_y(pixel))
    x, y = sip(u, v)
    degree = max(sip[1].degree, sip[2].degree) + 2
    domains = {"x_domain": (x.min(), x.max()), "y_domain": (y.min(), y.max())}
    fit = fitting.LinearLSQFitter()
    inverse_u, inverse_v = (
        fit(m.Polynomial2D(degree, **domains), x, y, target) for target in (u, v)
    )
    return m.Mapping((0, 1, 0, 1)) | inverse_u & inverse_v


# --- gwcs ---


def _from_asdf(path: Path) -> Wcs:
    """Read a gwcs from an ASDF file; see `load_wcs`."""
    try:
        with open_asdf(path) as file:
            found = file.tree.get("wcs")
            if found is None:
                found = file.tree["roman"]["meta"]["wcs"]
            # Here, while the file is open: arrays of the transform may not have been read yet.
            return from_gwcs(found, str(path))
    except InputError as err:
        if "expected" in str(err):
            raise
        raise InputError(f"{err}, {_GWCS_EXPECTED}") from None
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}, {_GWCS_EXPECTED}") from None
    except Exception as err:  # a file can be broken in every way that YAML, asdf and gwcs know
        reason = " ".join(f"{type(err).__name__}: {err}".split())
        raise InputError(f"{path}: {reason[:200]}, {_GWCS_EXPECTED}") from None


def from_gwcs(found: Any, source: str) -> Wcs:
    """Check a gwcs and wrap a copy of it."""
    from astropy import units as u
    from gwcs import WCS

    if not isinstance(found, WCS):
        raise InputError(f"{source}: found {type(found).__name__}, expected a gwcs")
    _check_box(found, source)
    frame = found.output_frame
    system = getattr(getattr(frame, "reference_frame", None), "name", "icrs")
    units = getattr(frame, "unit", None) or (u.deg, u.deg)
    if system != "icrs" or tuple(units) != (u.deg, u.deg):
        raise InputError(
            f"{source}: gwcs to {system} in {', '.join(map(str, units))}, expected ICRS in degrees"
        )
    model = copy.deepcopy(found)
    try:
        ra, dec = _sky(model, 0.0, 0.0)
    except Exception as err:  # transforms are arbitrary code
        raise InputError(
            f"{source}: {type(err).__name__} when evaluated, expected a gwcs from (x, y) to sky"
        ) from None
    if not (np.isfinite(ra) and np.isfinite(dec)):
        raise InputError(f"{source}: no sky position at pixel (0, 0), expected a gwcs of the array")
    return Wcs(model, bool(dec >= 0))


def _check_box(model: Any, source: str) -> None:
    """Warn if the bounding box looks like that of a frame with its reference pixels."""
    from ..core.detector import CHANNEL_WIDTH

    try:
        low, high = model.bounding_box.bounding_box()[0]
    except Exception:  # no box, or one of another kind
        return
    if low > -BORDER and round(high - low) % CHANNEL_WIDTH == 0:
        log.warning(
            "%s: its bounding box is that of a full frame; its pixels are taken as active ones",
            source,
        )


def _sky(model: Any, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate a gwcs beyond its bounding box too, in plain degrees."""
    ra, dec = model(x, y, with_bounding_box=False)
    if hasattr(ra, "unit"):
        ra, dec = ra.to_value("deg"), dec.to_value("deg")
    return np.asarray(ra, float), np.asarray(dec, float)
