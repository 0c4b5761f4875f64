"""The configuration: the YAML file that users have, as typed and validated models.

An attribute has the name of its YAML key, and the text below it is that key's documentation: the
configuration page of the manual and the JSON Schema (``Config.model_json_schema()``) are generated
from here."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..core import dq
from ..errors import InputError
from .block import Block, step_default, tidy
from .caldir import add_other_names, as_given, one_name_each
from .messages import problem, sentences
from .types import (
    AsdfPath,
    Count,
    FilePath,
    Flag,
    Growth,
    NotNegative,
    Positive,
    SkyOrder,
    no_bool,
    recipe_path,
    resolve_path,
)
from .yaml_file import display_name, read_yaml, require_kind

log = logging.getLogger(__name__)


def _tidy_caldir(schema: dict[str, Any], model: type[BaseModel]) -> None:
    tidy(schema, model)
    add_other_names(schema)


def _or_word(schema: dict[str, Any]) -> None:
    """In the JSON Schema: CALDIR may be a word."""
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"const": "crds"}]


class Caldir(Block):
    """Calibration reference files of the exposure's detector (ASDF, tree under ``roman``). Which
    are needed depends on the recipe; ``N/A`` is the same as none. Instead of the block the word
    ``crds`` lets CRDS choose them."""

    model_config = ConfigDict(json_schema_extra=_tidy_caldir)

    dark: FilePath | None = None
    """Dark cube ``data`` (DN_raw), dark current ``dark_slope`` (DN_lin/s) and ``dq``."""
    gain: FilePath | None = None
    """Gain ``data`` of each pixel (e/DN)."""
    linearitylegendre: FilePath | None = None
    """Legendre coefficients ``data``, range ``Smin``..``Smax`` and zero ``Sref`` (DN), ``dq``."""
    read: FilePath | None = None
    """Read noise ``data`` and ``resetnoise`` (DN), 1/f amplitudes, reference output (optional)."""
    saturation: FilePath | None = None
    """Saturation threshold ``data`` (DN_raw) and ``dq``."""
    flat: FilePath | None = None
    """Flat field ``data`` (dimensionless)."""
    ipc4d: FilePath | None = None
    """Inter-pixel capacitance kernel of each active pixel (dimensionless); without it the step is
    skipped, with a warning."""
    mask: FilePath | None = None
    """Permanent data-quality flags ``dq``; without it all flags start at 0, with a warning."""
    biascorr: FilePath | None = None
    """Bias correction of the active pixels ``data`` (DN_raw); without it the step is skipped."""
    dark_decay: FilePath | None = None
    """Amplitude (DN) and time constant (s) of each detector's dark decay; without it the step is
    skipped."""
    linearity: FilePath | None = None
    """Polynomial ``coeffs`` from raw to linear signal (DN) and ``dq``, the observatory's."""
    inverselinearity: FilePath | None = None
    """Polynomial ``coeffs`` from linear to raw signal (DN), the observatory's."""
    integralnonlinearity: FilePath | None = None
    """Integral non-linearity of the converter of each channel, ``inl_table`` (DN)."""
    refpix: FilePath | None = None
    """Weights ``gamma``, ``zeta``, ``alpha`` of the observatory's reference-pixel correction."""
    photom: FilePath | None = None
    """Conversion to MJy/sr of each optical element, ``phot_table``."""
    distortion: FilePath | None = None
    """Pixel to V2, V3 of the telescope (arcsec), ``coordinate_distortion_transform``."""

    _crds: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given, twice = one_name_each(data)
        if twice:
            raise PydanticCustomError("twice", "two names", {"problems": twice})
        return given

    @classmethod
    def or_crds(cls, data: Any) -> Any:
        """What CALDIR may be: the word ``crds``, or the block."""
        if data != "crds":
            return data
        chosen = cls()
        chosen._crds = True
        return chosen


class RampOptPars(Block):
    """The pixel for which the weights of the ramp fit are optimal; keys left out keep defaults."""

    slope: Positive = step_default("ramp_fit", "slope")
    """Signal rate (DN/s)."""
    gain: Positive = step_default("ramp_fit", "gain")
    """Gain (e/DN)."""
    sigma_read: Positive = step_default("ramp_fit", "sigma_read")
    """Read noise of one read (DN)."""


class JumpDetectPars(Block):
    """Threshold of the jump detection: linear in the logarithm of the rate from (IthreshA,
    SthreshA) to (IthreshB, SthreshB), constant outside; keys left out keep defaults."""

    SthreshA: Positive = step_default("ramp_fit", "threshold_a")
    """Threshold at and below the rate IthreshA (standard deviations)."""
    SthreshB: Positive = step_default("ramp_fit", "threshold_b")
    """Threshold at and above the rate IthreshB (standard deviations)."""
    IthreshA: Positive = step_default("ramp_fit", "rate_a")
    """Rate up to which SthreshA holds (DN/s)."""
    IthreshB: Positive = step_default("ramp_fit", "rate_b")
    """Rate from which SthreshB holds (DN/s), larger than IthreshA."""

    @model_validator(mode="after")
    def _ascending(self) -> JumpDetectPars:
        if self.IthreshA >= self.IthreshB:
            raise problem(
                f"IthreshA ({self.IthreshA:g}) must be smaller than IthreshB ({self.IthreshB:g})"
            )
        return self


class JumpKw(Block):
    """What the likelihood ramp fit does about large events (snowballs), by romancal's names; keys
    left out keep defaults."""

    expand_large_events: bool = step_default("large_events", "expand_large_events")
    """Flag what surrounds large events: groups of pixels that jump together."""
    min_jump_area: Positive = step_default("large_events", "min_jump_area")
    """Least area of such a group (pixels)."""
    min_sat_area: Positive = step_default("large_events", "min_sat_area")
    """Least area of its saturated core (pixels)."""
    expand_factor: Positive = step_default("large_events", "expand_factor")
    """By how much the radius of the circle around the group is multiplied."""
    sat_required_snowball: bool = step_default("large_events", "sat_required_snowball")
    """Only groups with a core that has just saturated are large events."""
    min_sat_radius_extend: NotNegative = step_default("large_events", "min_sat_radius_extend")
    """Least radius of a core that is grown (pixels)."""
    sat_expand: Count = step_default("large_events", "sat_expand")
    """Pixels by which the radius of a core is grown."""
    edge_size: Count = step_default("large_events", "edge_size")
    """Distance from the edge within which no saturated core is required (pixels)."""
    maximum_cores: Annotated[int | str, BeforeValidator(no_bool)] | None = None
    """Processes of romancal; without effect here, see ``--threads``."""


class Noise(Block):
    """Noise realisations to make."""

    LAYER: Annotated[list[str], Field(min_length=1)]
    """Labels of the noise layers, each in the layer language, for example ``['RP', 'RS2']``."""
    TEMP: FilePath
    """Scratch location for intermediate data while the program runs, best on a local disk."""
    SEED: Count
    """Seed of the random numbers, an integer from 0 up."""
    OUT: AsdfPath
    """Noise file to write (rates in DN/s), ending in ``.asdf``."""


class Config(Block):
    """Configuration of one exposure; make it with `load_config`.

    Paths may hold ``~`` and environment variables and are relative to the configuration file
    (to the working directory if the configuration is a dict).
    """

    IN: FilePath
    """Level-1 file to read (ASDF)."""
    OUT: AsdfPath
    """Level-2 file to write, ending in ``.asdf``."""
    FITSWCS: FilePath | None = None
    """Text of a FITS header with the world coordinates (TAN or TAN-SIP); without FITSWCS and GWCS
    the coordinates are those of the Level-1 file."""
    FITSWCS_ORIGIN: Literal[0, 1] = 0
    """Number of the first pixel in the FITSWCS header: 0 as sim_to_isim writes it, 1 as in the FITS
    standard."""
    GWCS: FilePath | None = None
    """ASDF file with a gwcs object under ``wcs`` or ``roman.meta.wcs``, instead of FITSWCS."""
    CALDIR: Annotated[Caldir, BeforeValidator(Caldir.or_crds), Field(json_schema_extra=_or_word)]
    """Calibration reference files, or ``crds``: those that CRDS chooses for the exposure."""
    TEMP: FilePath | None = None
    """Scratch directory for corrections that are too large for the memory, which the observatory's
    reference-pixel correction needs (4 bytes for each sample); best on a local disk, on a cluster
    one that all workers share. Without it that is NOISE.TEMP if it is there, else the directory of
    OUT. What is written there is removed at the end."""
    RAMP_OPT_PARS: RampOptPars = Field(default_factory=RampOptPars)
    """The pixel for which the weights of the ramp fit are optimal."""
    JUMP_DETECT_PARS: JumpDetectPars = Field(default_factory=JumpDetectPars)
    """Thresholds of the jump detection."""
    romancal_ramp_fit: bool = False
    """Fit ramps by maximum likelihood, as romancal does: the recipe's key ``likelihood`` names the
    recipe that takes its place. Not given, the recipe decides."""
    REJECTION_THRESHOLD: Positive = step_default("ramp_fit_likelihood", "rejection_threshold")
    """Significance from which the likelihood fit takes a difference for a jump (standard
    deviations)."""
    JUMP_KW: JumpKw = Field(default_factory=JumpKw)
    """What the likelihood fit does about large events (snowballs)."""
    FITSOUT: bool = False
    """Also write the image as FITS, under OUT with ``.asdf`` replaced by ``_asdf_to.fits``."""
    SKYORDER: SkyOrder | None = step_default("sky", "order")
    """Order of the polynomial sky model to subtract, 0 to 7; without it the sky stays in the
    image."""
    SLICEOUT: bool = False
    """Also store the last resultant of each saturating pixel's fit (``endslice``)."""
    JUMPOUT: bool = False
    """Also store where and when jumps were found (``jump_indices``)."""
    SATURATION_BACKUP: Count = step_default("saturation", "backup")
    """Resultants before the first saturated one that are flagged too, where they average more than
    one read."""
    EXCLUDE_FIRST: bool = True
    """Leave the first resultant out of the ramp fit. Not given, the recipe decides."""
    correct_wfi18_transient: bool = step_default("wfi18_transient", "correct")
    """Correct the transient in the first resultant of detector WFI18."""
    wfi18_mask_rows: bool = step_default("wfi18_transient", "mask_rows")
    """Flag rows 0 to 999 of the first resultant of WFI18 instead of fitting its transient."""
    NOISE: Noise | None = None
    """Noise realisations to make."""
    NOISE_PRECISION: Literal[16, 32] = 32
    """Bits of the floating-point numbers in the noise file."""
    GRAPH: Annotated[str | Path, BeforeValidator(recipe_path)] = "l1_to_l2"
    """Recipe: the name of a shipped one, or a file (ending in ``.yaml`` or with a ``/`` in it)."""
    MASK: dict[Flag, Growth] = dq.MASK_GROWTH
    """Pixels masked around one with a flag: 1 itself, 5 with its cardinal neighbours, 9 = 3 x 3,
    25 = 5 x 5; a table given here replaces the default one."""

    _raw: dict[str, Any] | None = PrivateAttr(default=None)
    _base: Path | None = PrivateAttr(default=None)
    _source: Path | None = PrivateAttr(default=None)

    @property
    def raw(self) -> dict[str, Any]:
        """The configuration as the user gave it: plain dicts, lists, numbers and texts."""
        return self.model_dump(mode="json") if self._raw is None else self._raw

    @property
    def source(self) -> Path | None:
        """The configuration file; None if the configuration was a dict."""
        return self._source

    @property
    def crds(self) -> bool:
        """Whether CRDS is to choose the reference files."""
        return self.CALDIR._crds

    def references(self) -> dict[str, Path]:
        """Reference files that are given, by their key in CALDIR; none with `crds`."""
        files = {key: getattr(self.CALDIR, key) for key in Caldir.model_fields}
        return {key: path for key, path in files.items() if path is not None}

    def replace(self, **changes: Any) -> Config:
        """The same configuration with other values of some top-level keys, validated anew.

        Raises
        ------
        InputError
            If a new value is wrong.
        """
        return validated(self.raw | changes, self._base or Path.cwd(), self._source)

    @model_validator(mode="after")
    def _no_conflict(self, info: ValidationInfo) -> Config:
        if problems := _conflicts(dict(_paths(self)) | (info.context or {}).get("more", {})):
            raise PydanticCustomError("conflicts", "conflicting paths", {"problems": problems})
        return self


def blocks() -> dict[str, type[BaseModel]]:
    """The model of each block of keys, by the block's name; the top level is ``""``."""
    found: dict[str, type[BaseModel]] = {"": Config}
    for name, field in Config.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found[name] = kind
    return found


def load_config(source: Mapping | str | Path | Config, *, base: Path | None = None) -> Config:
    """Read and validate a configuration.

    Parameters
    ----------
    source : mapping, str, path or Config
        The configuration itself, or the YAML file that holds it. A `Config` is returned as it is.
    base : path, optional
        Folder that relative paths start from. Default: that of the file, for a mapping the
        working directory.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        With everything that is wrong, one line for each key.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        raw, file = _plain(source), None
    else:
        file = Path(source).absolute()
        raw = read_yaml(file)
        require_kind(raw, "configuration", file)
    base = Path(base).absolute() if base else file.parent if file else Path.cwd()
    return validated(raw, base, file)


def _plain(value: Any) -> Any:
    """A copy of `value` in types that YAML and ASDF can write."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numbers computed with NumPy
        return value.tolist()
    return value


def validated(raw: dict[Any, Any], base: Path, file: Path | None) -> Config:
    raw = _plain(raw)
    more = {"the configuration file": file} if file else {}
    try:
        config = Config.model_validate(raw, context={"base": base, "more": more})
    except ValidationError as err:
        problems = sentences(err, blocks())
        if not any(item["type"] == "conflicts" for item in err.errors()):
            # pydantic looks for conflicts only once every single key is right.
            problems += _conflicts(readable_paths(raw, base) | more)
        problems = [as_given(line, raw.get("CALDIR")) for line in problems]
        raise InputError(f"{display_name(file)}: {line}" for line in problems) from None
    config._raw, config._base, config._source = raw, base, file
    return config


# Files that must not be one and the same


def _paths(config: Config) -> Iterator[tuple[str, Path]]:
    """All paths of a configuration, by dotted key."""
    for block in blocks():
        values = getattr(config, block) if block else config
        for key in type(values).model_fields if values is not None else ():
            if isinstance(path := getattr(values, key), Path):
                yield f"{block}.{key}" if block else key, path


def readable_paths(raw: dict[Any, Any], base: Path) -> dict[str, Path]:
    """What `_paths` gives, from a configuration that may be wrong elsewhere."""
    found: dict[str, Any] = {}
    for block, model in blocks().items():
        values = raw.get(block) if block else raw
        if not isinstance(values, dict):
            continue
        if model is Caldir:
            values = one_name_each(values)[0]
        for key, field in model.model_fields.items():
            # An outermost `Annotated` is in the field's metadata, what is left of it is `Path`.
            if field.annotation is Path or FilePath in get_args(field.annotation):
                with contextlib.suppress(PydanticCustomError):
                    found[f"{block}.{key}" if block else key] = resolve_path(values.get(key), base)
    return {key: path for key, path in found.items() if isinstance(path, Path)}


def _conflicts(paths: Mapping[str, Path]) -> list[str]:
    """What is wrong with the paths taken together: nothing that is read may be written."""
    problems = []
    if "FITSWCS" in paths and "GWCS" in paths:
        problems.append("FITSWCS and GWCS are both given, expected at most one of them")
    real = {key: os.path.realpath(path) for key, path in paths.items()}
    written = [key for key in ("OUT", "NOISE.OUT", "NOISE.TEMP", "TEMP") if key in paths]
    for i, key in enumerate(written):
        for other, path in paths.items():
            if other in written[: i + 1]:
                continue
            if real[key] == real[other] or _linked(paths[key], path):
                problems.append(f"{key} and {other} are the same file, {paths[key]}")
    return problems


def _linked(a: Path, b: Path) -> bool:
    """One file under two names: hard links, file systems that ignore case."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False
