"""The calibration reference files: which arrays they hold, checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite
from pathlib import Path
from typing import Any

from ..core.detector import BORDER, CHANNEL_WIDTH, PADDED_WIDTH
from ..core.exposure import Exposure
from ..errors import InputError
from .arrays import Constant, PixelArea, Placed, ReadTime
from .channel_tables import Values, channel_tables
from .kinds import contradictions
from .layout import Layout, known_layout


@dataclass(frozen=True)
class Array:
    """One array (or scalar) that steps may ask for.

    Attributes
    ----------
    dims : str
        Letters: r resultants (one plane more is accepted in a reference), p polynomial terms,
        k = 3, y and x the full detector, Y and X its active part, a = 128, c channels, f
        frequencies of a channel, v values of the converter. Empty: a scalar or mapping of the tree.
    dtype : str or None
        What kernels get; None keeps float32 or float64 as stored.
    unit, meaning : str
    required : bool
        Must be there if its file is.
    """

    dims: str
    dtype: str | None
    unit: str
    meaning: str
    required: bool = True


LARGEST_DECAY = 65535
"""DN. A signal that decays cannot be more than the converter reads."""
UNKNOWN = -999999
"""What stands in Roman metadata for a number that is not known."""
F, U = "float32", "uint32"
ARRAYS: dict[str, Array] = {
    "l1.data": Array("ryx", "uint16", "DN", "raw resultants"),
    "l1.amp33": Array("rya", "uint16", "DN", "reference output"),
    "l1.reference_read": Array("yx", F, "DN", "read subtracted on board", False),
    "l1.reference_amp33": Array("ya", F, "DN", "the same of the reference output", False),
    "l1.resultantdq": Array("ryx", "uint8", "", "flags of each resultant", False),
    "dark.data": Array("ryx", F, "DN", "mean dark ramp, raw", False),
    "dark.dark_slope": Array("yx", F, "DN/s", "dark current, linearised"),
    "dark.dq": Array("yx", U, "", "flags of the dark"),
    "gain.data": Array("yx", None, "e/DN", "gain; its precision is that of the IPC arithmetic"),
    "gain.dq": Array("yx", U, "", "flags of the gain", False),
    "ipc4d.data": Array("kkYX", F, "", "share of a pixel's charge seen in each neighbour"),
    "ipc4d.dq": Array("yx", U, "", "flags of the kernel", False),
    "linearitylegendre.data": Array("pyx", F, "DN", "Legendre coefficients"),
    "linearitylegendre.Smin": Array("yx", F, "DN", "lower end of the linearity fit"),
    "linearitylegendre.Smax": Array("yx", F, "DN", "upper end of the linearity fit"),
    "linearitylegendre.Sref": Array("yx", F, "DN", "signal of an empty well"),
    "linearitylegendre.dq": Array("yx", U, "", "flags of the linearity fit"),
    "mask.dq": Array("yx", U, "", "pixels known to be bad"),
    "read.data": Array("yx", F, "DN", "read noise of one read"),
    "read.dq": Array("yx", U, "", "flags of the read noise", False),
    "read.resetnoise": Array("yx", F, "DN", "reset noise", False),
    "read.anc.U_PINK": Array("", None, "DN", "1/f noise of each channel's own", False),
    "read.anc.C_PINK": Array("", None, "DN", "1/f noise common to all channels", False),
    "read.amp33.valid": Array("", None, "", "the reference output can be used", False),
    "read.amp33.med": Array("ya", F, "DN", "mean reference output", False),
    "read.amp33.std": Array("ya", F, "DN", "white noise of the reference output", False),
    "read.amp33.M_PINK": Array("", None, "", "its response to the common 1/f noise", False),
    "read.amp33.RU_PINK": Array("", None, "DN", "1/f noise of its own", False),
    "saturation.data": Array("yx", F, "DN", "saturation threshold, raw"),
    "saturation.dq": Array("yx", U, "", "flags of the threshold"),
    "flat.data": Array("yx", F, "", "relative response to a uniform surface brightness"),
    "flat.dq": Array("yx", U, "", "flags of the flat", False),
    "biascorr.data": Array("rYX", F, "DN", "bias that dark and linearity do not explain"),
    "biascorr.dq": Array("yx", U, "", "flags of the bias", False),
    "biascorr.t0": Array("", None, "s", "time from reset to the empty-well level", False),
    "linearity.coeffs": Array("pyx", F, "DN^(1-p)", "polynomial from raw to linear signal"),
    "linearity.dq": Array("yx", U, "", "flags of the linearity polynomial"),
    "inverselinearity.coeffs": Array("pyx", F, "DN^(1-p)", "polynomial from linear to raw signal"),
    "inverselinearity.dq": Array("yx", U, "", "flags of the inverse polynomial", False),
    "integralnonlinearity.value": Array("v", "uint16", "DN", "readings of the converter"),
    "integralnonlinearity.table": Array("cv", "float64", "DN", "non-linearity at each reading"),
    "refpix.gamma": Array("cf", "complex128", "", "response of channels to the left border"),
    "refpix.zeta": Array("cf", "complex128", "", "response of channels to the right border"),
    "refpix.alpha": Array("cf", "complex128", "", "response of channels to the reference output"),
    "flat.err": Array("yx", F, "", "error of the flat", False),
    "photom.phot_table": Array("", None, "MJy/sr, sr", "conversion by optical element"),
    "dark_decay.decay_table": Array("", None, "DN, s", "amplitude and time constant by detector"),
}
"""Every array of the input files, registered once."""


@dataclass(frozen=True)
class Inputs:
    """Everything that tasks read, as small picklable sources.

    Attributes
    ----------
    exposure : Exposure
    sources : mapping of str to object
        Name in `ARRAYS` (and the computed "wcs.area", "detector.read_time") -> source.
    layouts : mapping of str to Layout
        "l1" and each reference's key -> its file's description.
    notes : tuple of str
        What is worth a warning.
    """

    exposure: Exposure
    sources: Mapping[str, Any]
    layouts: Mapping[str, Layout] = field(repr=False)
    notes: tuple[str, ...] = ()

    def available(self, name: str) -> bool:
        """Whether a source of this name is there."""
        return name in self.sources

    def same(self, other: Inputs, name: str) -> bool:
        """Whether both have one and the same source of this name, see `share_sources`, or none."""
        return self.sources.get(name) is other.sources.get(name)


def share_sources(inputs: Sequence[Inputs]) -> list[Inputs]:
    """The same for exposures that have references in common: sources that are equal are one object
    then, from which a task of several exposures knows that one reading will do."""
    known: dict[str, list[Any]] = {}
    shared = []
    for one in inputs:
        sources = {}
        for name, source in one.sources.items():
            others = known.setdefault(name, [])
            same = next((other for other in others if other == source), source)
            if same is source:
                others.append(source)
            sources[name] = same
        shared.append(replace(one, sources=sources))
    return shared


def open_inputs(
    l1: Layout,
    exposure: Exposure,
    references: Mapping[str, Path],
    used: Collection[str] | None = None,
) -> tuple[Inputs, list[str]]:
    """Describe all arrays of an exposure and its reference files.

    Parameters
    ----------
    l1 : Layout
    exposure : Exposure
    references : mapping of str to Path
        CALDIR.
    used : collection of str, optional
        Arrays that somebody asks for. An optional one that is not among them may have any shape:
        the observatory's old darks have cubes of other resultants. Default: all.

    Returns
    -------
    inputs : Inputs
    problems : list of str
        Everything that is wrong with the files, one sentence each.
    """
    layouts: dict[str, Layout] = {"l1": l1}
    problems: list[str] = []
    notes: list[str] = []
    for key, path in references.items():
        try:
            layouts[key] = known_layout(path)
        except InputError as error:
            problems += [f"CALDIR.{key}: {p}" for p in error.problems]
        else:
            problems += contradictions(key, layouts[key], exposure)
    sources: dict[str, Any] = {}
    for name, array in ARRAYS.items():
        key, *rest = name.split(".")
        if key not in layouts:
            continue
        try:
            if name == "integralnonlinearity.table":
                source: Any = channel_tables(layouts[key], exposure.side // CHANNEL_WIDTH)
            else:
                source = _source(layouts[key], tuple(rest), array, exposure, l1)
        except InputError as error:
            if key != "l1" and _is_spare(name, array, used):
                notes.append(f"CALDIR.{key}: {error}: it is not used")
            else:
                problems += error.problems if key == "l1" else [f"CALDIR.{key}: {error}"]
            continue
        if source is not None:
            sources[name] = source
            if isinstance(source, Placed) and source.planes is not None:
                sources[name + "@first"] = replace(source, first=True)
        elif array.required or _is_due(name, layouts[key]):
            where = "" if key == "l1" else f"CALDIR.{key}: "
            problems.append(f"{where}{layouts[key].path}: no roman.{'.'.join(rest)}")
    _drop_invalid_amp33(sources)
    if "dark_decay.decay_table" in sources:
        table = sources.pop("dark_decay.decay_table").read()
        found = read_decay(table, exposure.detector, exposure.frame_time)
        place = f"CALDIR.dark_decay: {layouts['dark_decay'].path}: decay_table"
        if isinstance(found, str):
            problems.append(f"{place} {found}")
        elif found is None:
            notes.append(f"{place} has no decay for {exposure.detector}: it is not corrected")
        else:
            sources["dark_decay.decay_table"] = Constant({exposure.detector: found})
    if "photom.phot_table" in sources:
        conversion = read_conversion(sources["photom.phot_table"].read(), exposure.optical_element)
        if isinstance(conversion, str):
            problems.append(f"CALDIR.photom: {layouts['photom'].path}: {conversion}")
            conversion = {}
        sources["photom.phot_table"] = Constant(conversion)
    sources["detector.read_time"] = ReadTime(
        exposure.detector_number, exposure.side, exposure.frame_time
    )
    return Inputs(exposure, sources, layouts, tuple(notes)), problems


def add_wcs(inputs: Inputs, wcs: Any, shifts: set[int]) -> Inputs:
    """`inputs` with the pixel-area sources of a WCS, for each shift that the recipe asks for."""
    side = inputs.exposure.side
    sources = dict(inputs.sources)
    for shift in shifts | {0}:
        spline = wcs.areas(side - 2 * BORDER, offset=shift)
        sources["wcs.area" + (f"+{shift}" if shift else "")] = PixelArea(spline, side)
    return replace(inputs, sources=sources)


def _is_due(name: str, layout: Layout) -> bool:
    """Whether the survey's read noise file, which tells more than the observatory's, should have
    this."""
    survey = any(layout.value("roman", part) is not None for part in ("resetnoise", "anc", "amp33"))
    return survey and name in ("read.resetnoise", "read.anc.U_PINK", "read.anc.C_PINK")


def _is_spare(name: str, array: Array, used: Collection[str] | None) -> bool:
    """A cube that is optional and that nobody asks for."""
    return used is not None and name not in used and array.dims[:1] == "r" and not array.required


def _source(
    layout: Layout, key: tuple[str, ...], array: Array, exposure: Exposure, l1: Layout
) -> Placed | Constant | Values | None:
    if not array.dims:
        value = layout.value("roman", *key)
        return None if value is None else Constant(value)
    stored = layout.array("roman", *key)
    if stored is None:
        return None
    n, r = exposure.side, exposure.n_resultants
    sizes = {
        "r": r,
        "k": 3,
        "y": n,
        "x": n,
        "Y": n - 2 * BORDER,
        "X": n - 2 * BORDER,
        "a": CHANNEL_WIDTH,
        "c": n // CHANNEL_WIDTH,
        "f": n * PADDED_WIDTH // 2 + 1,
        "v": -1,
    }
    if array.dims == "yx" and stored.shape == (n - 2 * BORDER,) * 2:
        array = replace(array, dims="YX")  # the active pixels alone
    expected = tuple(sizes.get(d, -1) for d in array.dims)
    extra = array.dims[0] == "r" and layout is not l1  # the reference read may be there still
    fits = len(stored.shape) == len(expected) and all(
        e in (-1, s) or (extra and i == 0 and s == e + 1)
        for i, (s, e) in enumerate(zip(stored.shape, expected, strict=True))
    )
    if not fits:
        shown = "(" + ", ".join("*" if e == -1 else str(e) for e in expected) + ")"
        also = f" or {r + 1} planes" if extra else ""
        raise InputError(
            f"{layout.path}: roman.{'.'.join(key)} has shape {stored.shape}, expected {shown}"
            f"{also} to fit {l1.path} with roman.data {_data_shape(l1)}"
        )
    if not _kind_fits(stored.dtype, array.dtype):
        raise InputError(
            f"{layout.path}: roman.{'.'.join(key)} has type {stored.dtype}, "
            f"expected {array.dtype or 'float32 or float64'}"
        )
    if array.dims == "v":
        return Values(stored, array.dtype)
    planes = r if array.dims[0] == "r" else None
    return Placed(stored, n, array.dtype, planes)


def _data_shape(l1: Layout) -> tuple[int, ...] | None:
    data = l1.array("roman", "data")
    return None if data is None else data.shape


def _kind_fits(stored: str, wanted: str | None) -> bool:
    """Integers may stand in for floats, signed for unsigned; floats never for flags."""
    kind = stored.lstrip("<>|=")[0]
    if wanted == "complex128":
        return kind == "c"
    return kind in "iuf" if wanted in (None, "float32") else kind in "iub"


def _drop_invalid_amp33(sources: dict[str, Any]) -> None:
    """Without a valid, complete description the reference output is not used at all."""
    names = [f"read.amp33.{k}" for k in ("med", "std", "M_PINK", "RU_PINK")]
    valid = sources.pop("read.amp33.valid", None)
    if (valid is not None and not valid.read()) or any(n not in sources for n in names):
        for name in names:
            sources.pop(name, None)


def read_decay(table: Any, detector: str, frame_time: float = 0.0) -> dict[str, float] | str | None:
    """The dark decay of a detector.

    Parameters
    ----------
    table : mapping
        Detector -> ``amplitude`` (DN) and ``time_constant`` (s); either may be null.
    detector : str
    frame_time : float
        Seconds between frames; the first is read half of that before the decay's time begins.

    Returns
    -------
    dict, str or None
        Both numbers; what is wrong with the entry; None if it says that there is no decay.
    """
    entry = table.get(detector) if isinstance(table, Mapping) else None
    if not (isinstance(entry, Mapping) and {"amplitude", "time_constant"} <= set(entry)):
        return f"has no amplitude and time_constant for {detector}"
    amplitude, constant = entry["amplitude"], entry["time_constant"]
    if amplitude is None or constant is None:
        return None
    for name, value in (("amplitude", amplitude), ("time_constant", constant)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return f"has {name} {value!r} for {detector}, expected a finite number or null"
    if constant <= 0:
        return f"has time_constant {constant} for {detector}, expected seconds > 0"
    if abs(amplitude) * exp(min(frame_time / 2 / constant, 700)) > LARGEST_DECAY:
        return (
            f"has amplitude {amplitude} and time_constant {constant} for {detector}, expected at "
            f"most {LARGEST_DECAY} DN in the first frame"
        )
    return {"amplitude": float(amplitude), "time_constant": float(constant)}


def read_conversion(table: Any, element: str) -> dict[str, dict[str, Any]] | str:
    """The conversion to surface brightness of an optical element, without the curves beside it.

    Parameters
    ----------
    table : mapping
        Optical element -> ``photmjsr`` and ``uncertainty`` (MJy/sr per DN/s), ``pixelareasr`` (sr);
        each may be null, or -999999 as in Level 2 files.
    element : str

    Returns
    -------
    dict or str
        The element's entry alone, empty if the table has none; or what is wrong with it.
    """
    if not isinstance(table, Mapping):
        return f"phot_table is {type(table).__name__}, expected a mapping of optical elements"
    entry = table.get(element)
    if entry is None:
        return {}
    if not isinstance(entry, Mapping):
        return f"phot_table.{element} is {type(entry).__name__}, expected a mapping"
    found: dict[str, Any] = {k: v for k, v in entry.items() if isinstance(v, int | float)}
    for name in ("photmjsr", "uncertainty", "pixelareasr"):
        value = entry.get(name)
        if value is None or value == UNKNOWN:
            found[name] = None
        elif isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return f"phot_table.{element}.{name} is {value!r}, expected a finite number or null"
        elif value < 0 or (value == 0 and name != "uncertainty"):
            return f"phot_table.{element}.{name} is {value!r}, expected a number > 0 or null"
        else:
            found[name] = float(value)
    return {element: found}
