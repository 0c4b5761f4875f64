"""The world coordinates of an exposure, from a FITS header, a gwcs file or the L1 itself, and the
solid angle of its pixels.

Pixels are those of the active array (side ``N - 8``), counted from 0, x along columns.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.detector import BORDER, OMEGA_IDEAL
from ..errors import InputError
from ..system.foreign import alone
from .asdf_file import open_asdf

if TYPE_CHECKING:
    from .areas import AreaSpline, TanArea

log = logging.getLogger(__name__)

_CARD = 80
_PLAIN_CARD = re.compile(
    r"(?P<key>[A-Z0-9_-]{1,8}) *(?<=.{8})= +"
    r"(?:'(?P<text>[^']*)'|(?P<number>[+-]?(?:\d+|\d+\.\d*|\.\d+)(?:E[+-]?\d+)?))"
    r" *(?:/.*)?"
)
_FITS_EXPECTED = "expected the text of a FITS header with a TAN or TAN-SIP projection"
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
    """

    model: Any
    north: bool
    exact: TanArea | None = None

    def _model(self) -> Any:
        return self.model.get() if isinstance(self.model, _Deferred) else self.model

    def gwcs(self, active_side: int) -> Any:
        """A copy of the gwcs for an array of `active_side` pixels, fit for ``meta.wcs``.

        Returns
        -------
        gwcs.WCS
            With `pixel_shape` and `bounding_box` (the outer edges of the pixels) set, and with a
            fitted inverse if there is a SIP distortion.
        """
        model = copy.deepcopy(self._model())
        if sip := _find_sip(model):
            sip.inverse = _inverse_of_sip(sip, model.pipeline[0].transform, active_side)
        edges = (-0.5, active_side - 0.5)
        model.bounding_box = (edges, edges)
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
        return _from_gwcs(l1_wcs, "meta.wcs of the L1 file")
    raise InputError(
        "there is no WCS: expected FITSWCS or GWCS in the configuration, or meta.wcs in the L1 file"
    )


# --- FITS header ---


def _from_fits(path: Path, origin: int) -> Wcs:
    """Read a FITS header as text; see `load_wcs`."""
    if origin not in (0, 1):
        raise InputError(f"FITSWCS_ORIGIN {origin}, expected 0 or 1")
    try:
        text = path.read_bytes().decode("ascii")
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}, {_FITS_EXPECTED}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not plain text, {_FITS_EXPECTED}") from None
    return _fits_to_wcs(_header(text, path), path, origin)


def _header(text: str, path: Path) -> Mapping[str, Any]:
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
        raise InputError(f"{path}: no WCS keywords, {_FITS_EXPECTED}")
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


def _fits_to_wcs(header: Mapping[str, Any], path: Path, origin: int) -> Wcs:
    """What a TAN or TAN-SIP header describes; the gwcs is made when it is asked for.

    Calabretta & Greisen 2002 (A&A 395, 1077) for the projection and the default of LONPOLE,
    Shupe et al. 2005 (ASPC 347, 491) for SIP.
    """
    from .areas import TanArea

    def number(key: str, default: float | None = None) -> float:
        value = header.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            found = f"{key} = {value!r}" if key in header else f"no {key}"
            raise InputError(f"{path}: {found}, expected a number")
        return float(value)

    sip = _check_fits(header, path)
    crval1, crval2 = number("CRVAL1"), number("CRVAL2")
    if abs(crval2) > 90:
        raise InputError(f"{path}: CRVAL2 = {crval2}, expected a declination from -90 to 90")
    lonpole = number("LONPOLE", 0.0 if crval2 >= 90 else 180.0)
    tangent = (number("CRPIX1") - origin, number("CRPIX2") - origin)
    cd = _matrix(header, number, path)
    coefficients = None
    terms: list[dict[str, float]] = []
    if sip:
        coefficients = np.zeros((2, 10, 10))
        for axis, (name, linear) in enumerate((("A", (1, 0)), ("B", (0, 1)))):
            order = int(number(f"{name}_ORDER"))
            powers = [(p, q) for p in range(order + 1) for q in range(order + 1 - p)]
            found = {(p, q): number(f"{name}_{p}_{q}", 0.0) for p, q in powers}
            found[linear] = found.get(linear, 0.0) + 1  # the pixel itself, plus its distortion
            for power, value in found.items():
                coefficients[(axis, *power)] = value
            terms.append({f"c{p}_{q}": value for (p, q), value in found.items()})
    model = _Deferred(lambda: _gwcs_of_fits(tangent, terms, cd, (crval1, crval2, lonpole)))
    return Wcs(model, crval2 >= 0, TanArea(tangent, cd, coefficients))


def _gwcs_of_fits(
    tangent: tuple[float, float],
    sip: list[dict[str, float]],
    cd: NDArray[np.float64],
    pole: tuple[float, float, float],
) -> Any:
    """The gwcs of a header; `sip` are the terms of both axes' polynomials, or nothing."""
    import gwcs
    from astropy import units as u
    from astropy.coordinates import ICRS
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf

    transform = m.Shift(-tangent[0]) & m.Shift(-tangent[1])
    if sip:
        polynomials = [
            m.Polynomial2D(max(int(t[1]) + int(t[3]) for t in terms), **terms) for terms in sip
        ]
        distortion = m.Mapping((0, 1, 0, 1)) | polynomials[0] & polynomials[1]
        distortion.name = _SIP
        transform = transform | distortion
    transform = (
        transform | m.AffineTransformation2D(cd) | m.Pix2Sky_TAN() | m.RotateNative2Celestial(*pole)
    )
    detector = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    world = cf.CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    return gwcs.WCS([(detector, transform), (world, None)])


def _check_fits(header: Mapping[str, Any], path: Path) -> bool:
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
            raise InputError(f"{path}: {key} is not supported, {_FITS_EXPECTED} and CD or PC")
    for key in ("CUNIT1", "CUNIT2"):
        if header.get(key, "deg") not in ("deg", "degree", "degrees"):
            raise InputError(f"{path}: {key} = {header[key]!r}, expected 'deg'")
    system = header.get("RADESYS", header.get("RADECSYS", "ICRS"))
    if system == "FK5" and header.get("EQUINOX", 2000.0) == 2000.0:
        log.warning("%s: FK5 coordinates taken as ICRS, at most 0.1 arcsec apart", path)
    elif system != "ICRS":
        raise InputError(f"{path}: RADESYS = {system!r}, expected 'ICRS'")
    return bool(sip)


def _matrix(header: Mapping[str, Any], number: Any, path: Path) -> NDArray[np.float64]:
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


def _find_sip(model: Any) -> Any:
    """The distortion part of a gwcs made by `_fits_to_wcs`, or None."""
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
            return _from_gwcs(found, str(path))
    except InputError:
        raise
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}, {_GWCS_EXPECTED}") from None
    except Exception as err:  # a file can be broken in every way that YAML, asdf and gwcs know
        reason = " ".join(f"{type(err).__name__}: {err}".split())
        raise InputError(f"{path}: {reason[:200]}, {_GWCS_EXPECTED}") from None


def _from_gwcs(found: Any, source: str) -> Wcs:
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
