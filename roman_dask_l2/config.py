"""The configuration: the YAML file that users have, as typed and validated models.

An attribute has the name of its YAML key, and the text below it is that key's documentation: the
configuration page of the manual and the JSON Schema (``Config.model_json_schema()``) are generated
from here."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
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

from . import dq
from .cells import CELLS, MAX_ORDER
from .errors import InputError

log = logging.getLogger(__name__)

SIMULATION_KEYS = frozenset({"READS", "CNORM", "NO_AMP33", "EXTRACT_REF", "SEED"})
"""Top-level keys that only the simulation half of romanimpreprocess reads."""

_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""In a path: what would break lines of messages and logs, or cannot be written into a file."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


# Our own validators raise one of two kinds of error, which `_sentence` turns into a line:
# "KEY is VALUE, expected ..." and "KEY: ...".


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{what}", {"what": what})


def _plainly(what: str) -> PydanticCustomError:
    return PydanticCustomError("plainly", "{what}", {"what": what})


def _expand(value: Any, info: ValidationInfo) -> Any:
    return _resolved(value, (info.context or {}).get("base") or Path.cwd())


def _resolved(value: Any, base: Path) -> Any:
    """Absolute path from text with ``~``, ``$NAME`` and ``${NAME}``."""
    if not isinstance(value, str | os.PathLike):
        return value
    text = str(value)
    if not text.strip() or "\0" in text:
        raise _expected("a path")
    names = [bare or braced for bare, braced in _VARIABLE.findall(text)]
    if undefined := sorted({name for name in names if name not in os.environ}):
        # Left as it is, it would become a folder called "$SCRATCH" somewhere.
        raise _plainly(f"environment variable {', '.join(undefined)} in {text!r} is not defined")
    text = os.path.expanduser(_VARIABLE.sub(lambda m: os.environ[m[1] or m[2]], text))
    if text.startswith("~"):
        raise _plainly(f"there is no home directory for {text.split('/')[0]!r}")
    path = str(base / text)
    if _UNUSABLE.search(path):
        raise _plainly(f"{path!r} has a control character or is not UTF-8, expected a path")
    # What two slashes in front mean is left open by POSIX; for some programs a host follows.
    return Path(re.sub("^//+", "/", path))


def _recipe(value: Any, info: ValidationInfo) -> Any:
    """A name stays a name; what looks like a file becomes a path."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise _expected("the name of a recipe or a file")
    is_file = "/" in str(value) or os.sep in str(value) or str(value).endswith((".yaml", ".yml"))
    return _expand(value, info) if is_file else str(value)


def _asdf(path: Path) -> Path:
    if path.suffix != ".asdf":
        raise _expected("a file name that ends in .asdf")
    return path


def _no_bool(value: Any) -> Any:
    # `SKYORDER: False` would otherwise be 0, which subtracts a constant.
    if isinstance(value, bool):
        raise _expected("a number")
    return value


def _flag(name: str) -> str:
    if name not in dq.PIXEL:
        near = _nearest(name, dq.PIXEL)
        raise _plainly("unknown data-quality flag" + (f", did you mean {near!r}?" if near else ""))
    return name


def _growth(pixels: int) -> int:
    if pixels not in dq.GROWTHS:
        raise _expected(f"one of {', '.join(map(str, dq.GROWTHS))}")
    return pixels


def _order(order: int) -> int:
    if not 0 <= order <= MAX_ORDER:
        raise _expected(
            f"a whole number from 0 to {MAX_ORDER}, the greatest order that {CELLS} x {CELLS} "
            "cells can carry"
        )
    return order


FilePath = Annotated[Path, BeforeValidator(_expand)]
AsdfPath = Annotated[FilePath, AfterValidator(_asdf)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_no_bool)]
SkyOrder = Annotated[
    int,
    Field(json_schema_extra={"minimum": 0, "maximum": MAX_ORDER}),
    BeforeValidator(_no_bool),
    AfterValidator(_order),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Flag = Annotated[str, Field(json_schema_extra={"enum": [*dq.PIXEL]}), AfterValidator(_flag)]
Growth = Annotated[
    int,
    Field(json_schema_extra={"enum": [*dq.GROWTHS]}),
    BeforeValidator(_no_bool),
    AfterValidator(_growth),
]


def _tidy(schema: dict[str, Any]) -> None:
    """In the JSON Schema: descriptions on one line, no titles (pydantic's would be "Ipc4D")."""
    for key in schema["properties"].values():
        key["description"] = " ".join(key["description"].split())
        key.pop("title", None)


class _Block(BaseModel):
    """What all blocks of the configuration share."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=_tidy
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        """``SKYORDER:`` with nothing after it means the same as no such line."""
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        return {
            key: value
            for key, value in data.items()
            if value is not None or key not in fields or fields[key].is_required()
        }


class Caldir(_Block):
    """Calibration reference files of the exposure's detector (ASDF, tree under ``roman``)."""

    dark: FilePath
    """Dark cube ``data`` (DN_raw), dark current ``dark_slope`` (DN_lin/s) and ``dq``."""
    gain: FilePath
    """Gain ``data`` of each pixel (e/DN)."""
    linearitylegendre: FilePath
    """Legendre coefficients ``data``, range ``Smin``..``Smax`` and zero ``Sref`` (DN), ``dq``."""
    read: FilePath
    """Read noise ``data`` and ``resetnoise`` (DN), 1/f amplitudes, reference output (optional)."""
    saturation: FilePath
    """Saturation threshold ``data`` (DN_raw) and ``dq``."""
    flat: FilePath
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


class RampOptPars(_Block):
    """The pixel for which the weights of the ramp fit are optimal; keys left out keep defaults."""

    slope: Positive = 0.4
    """Signal rate (DN/s)."""
    gain: Positive = 1.8
    """Gain (e/DN)."""
    sigma_read: Positive = 6.5
    """Read noise of one read (DN)."""


class JumpDetectPars(_Block):
    """Threshold of the jump detection: linear in the logarithm of the rate from (IthreshA,
    SthreshA) to (IthreshB, SthreshB), constant outside; keys left out keep defaults."""

    SthreshA: Positive = 5.5
    """Threshold at and below the rate IthreshA (standard deviations)."""
    SthreshB: Positive = 4.5
    """Threshold at and above the rate IthreshB (standard deviations)."""
    IthreshA: Positive = 1.0
    """Rate up to which SthreshA holds (DN/s)."""
    IthreshB: Positive = 1000.0
    """Rate from which SthreshB holds (DN/s), larger than IthreshA."""

    @model_validator(mode="after")
    def _ascending(self) -> JumpDetectPars:
        if self.IthreshA >= self.IthreshB:
            raise _plainly(
                f"IthreshA ({self.IthreshA:g}) must be smaller than IthreshB ({self.IthreshB:g})"
            )
        return self


class Noise(_Block):
    """Noise realisations to make."""

    LAYER: Annotated[list[str], Field(min_length=1)]
    """Labels of the noise layers, each in the layer language, for example ``['RP', 'RS2']``."""
    TEMP: FilePath
    """Scratch location for intermediate data while the program runs, best on a local disk."""
    SEED: Count
    """Seed of the random numbers, an integer from 0 up."""
    OUT: AsdfPath
    """Noise file to write (rates in DN/s), ending in ``.asdf``."""


class Config(_Block):
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
    CALDIR: Caldir
    """Calibration reference files."""
    RAMP_OPT_PARS: RampOptPars = RampOptPars()
    """The pixel for which the weights of the ramp fit are optimal."""
    JUMP_DETECT_PARS: JumpDetectPars = JumpDetectPars()
    """Thresholds of the jump detection."""
    FITSOUT: bool = False
    """Also write the image as FITS, under OUT with ``.asdf`` replaced by ``_asdf_to.fits``."""
    SKYORDER: SkyOrder | None = None
    """Order of the polynomial sky model to subtract, 0 to 7; without it the sky stays in the
    image."""
    SLICEOUT: bool = False
    """Also store the last resultant of each saturating pixel's fit (``endslice``)."""
    SATURATION_BACKUP: Count = 1
    """Resultants before the first saturated one that are flagged too, where they average more than
    one read."""
    EXCLUDE_FIRST: bool = True
    """Leave the first resultant out of the ramp fit."""
    correct_wfi18_transient: bool = False
    """Correct the transient in the first resultant of detector WFI18."""
    wfi18_mask_rows: bool = False
    """Flag rows 0 to 999 of the first resultant of WFI18 instead of fitting its transient."""
    NOISE: Noise | None = None
    """Noise realisations to make."""
    NOISE_PRECISION: Literal[16, 32] = 32
    """Bits of the floating-point numbers in the noise file."""
    GRAPH: Annotated[str | Path, BeforeValidator(_recipe)] = "l1_to_l2"
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

    def references(self) -> dict[str, Path]:
        """Reference files that are given, by their key in CALDIR."""
        files = {key: getattr(self.CALDIR, key) for key in Caldir.model_fields}
        return {key: path for key, path in files.items() if path is not None}

    def replace(self, **changes: Any) -> Config:
        """The same configuration with other values of some top-level keys, validated anew.

        Raises
        ------
        InputError
            If a new value is wrong.
        """
        return _validate(self.raw | changes, self._base or Path.cwd(), self._source)

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
        raw = _read(file)
    base = Path(base).absolute() if base else file.parent if file else Path.cwd()
    config = _validate(raw, base, file)
    name = _name(file)
    if config.CALDIR.ipc4d is None:
        log.warning("%s: no CALDIR.ipc4d, inter-pixel capacitance is not corrected", name)
    if config.CALDIR.mask is None:
        log.warning("%s: no CALDIR.mask, data-quality flags start at 0", name)
    return config


def _name(file: Path | None) -> str:
    """How messages call the configuration."""
    if file is None:
        return "configuration"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


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


def _read(file: Path) -> dict[Any, Any]:
    """The mapping in a YAML file."""
    try:
        loader = yaml.SafeLoader(file.read_bytes())
        node = loader.get_single_node()
        repeated = list(_repeated(node))
        data = loader.construct_document(node) if node is not None else None
    except OSError as err:
        raise InputError(f"{file}: cannot read the configuration: {err.strerror}") from None
    except yaml.YAMLError as err:
        raise InputError(f"{_name(file)}: not valid YAML: {_yaml_reason(err)}") from None
    except (ValueError, RecursionError) as err:  # a date such as 2026-13-45; endless nesting
        raise InputError(f"{_name(file)}: not valid YAML: {err}") from None
    if repeated:
        raise InputError(f"{_name(file)}: {line}" for line in repeated)
    if data is None:
        raise InputError(f"{_name(file)}: the file is empty, expected a mapping of keys to values")
    if not isinstance(data, dict):
        raise InputError(
            f"{_name(file)}: expected a mapping of keys to values, found {_kind(data)}"
        )
    return data


def _yaml_reason(err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(err, "problem", None) or str(err).splitlines()[0])


def _repeated(node: yaml.Node | None, within: tuple[int, ...] = ()) -> Iterator[str]:
    """Keys that stand twice in a mapping; YAML itself would silently take the last."""
    if id(node) in within:
        raise ValueError("an alias refers to itself")
    within = (*within, id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, within)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    yield f"key {key.value} stands twice, in lines {first[key.value]} and {line}"
                first.setdefault(key.value, line)
            yield from _repeated(value, within)


def _validate(raw: dict[Any, Any], base: Path, file: Path | None) -> Config:
    raw = _plain(raw)
    more = {"the configuration file": file} if file else {}
    try:
        config = Config.model_validate(raw, context={"base": base, "more": more})
    except ValidationError as err:
        problems = _sentences(err)
        if not any(item["type"] == "conflicts" for item in err.errors()):
            # pydantic looks for conflicts only once every single key is right.
            problems += _conflicts(readable_paths(raw, base) | more)
        raise InputError(f"{_name(file)}: {line}" for line in problems) from None
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
        for key, field in model.model_fields.items():
            # An outermost `Annotated` is in the field's metadata, what is left of it is `Path`.
            if field.annotation is Path or FilePath in get_args(field.annotation):
                with contextlib.suppress(PydanticCustomError):
                    found[f"{block}.{key}" if block else key] = _resolved(values.get(key), base)
    return {key: path for key, path in found.items() if isinstance(path, Path)}


def _conflicts(paths: Mapping[str, Path]) -> list[str]:
    """What is wrong with the paths taken together: nothing that is read may be written."""
    problems = []
    if "FITSWCS" in paths and "GWCS" in paths:
        problems.append("FITSWCS and GWCS are both given, expected at most one of them")
    real = {key: os.path.realpath(path) for key, path in paths.items()}
    written = [key for key in ("OUT", "NOISE.OUT", "NOISE.TEMP") if key in paths]
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


# From pydantic's errors to sentences


def _sentences(error: ValidationError) -> list[str]:
    errors = error.errors(include_url=False)
    near: dict[str, str] = {}
    for item in errors:
        if item["type"] == "extra_forbidden":
            near[_dotted(item["loc"])] = _suggestion(item["loc"])
    lines = []
    for item in errors:
        key = _dotted(item["loc"])
        if key in near:
            lines.append(_unknown(key, near[key], item["loc"]))
        elif item["type"] == "conflicts":
            lines += item["ctx"]["problems"]
        elif item["type"] != "missing" or key not in near.values():
            lines.append(_sentence(key, item))
    return lines


def _dotted(loc: Iterable[int | str]) -> str:
    """``("NOISE", "LAYER", 0)`` as ``NOISE.LAYER[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".").removesuffix(".[key]")


def _sentence(key: str, item: Any) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return f"required key {key} is missing"
        case "plainly":
            return f"{key}: {item['msg']}"
        case "invalid_key":
            return f"{key}: a key must be text; write it in quotes"
        case "expected":
            expected = item["msg"]
        case "bool_type" | "bool_parsing":
            expected = "true or false"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            expected = "a whole number"
        case "float_type" | "float_parsing":
            expected = "a number"
        case "finite_number":
            expected = "a finite number"
        case "greater_than":
            expected = f"a number larger than {context['gt']:g}"
        case "greater_than_equal":
            expected = f"a whole number from {context['ge']} up"
        case "literal_error":
            expected = context["expected"]
        case "path_type":
            expected = "a path"
        case "string_type":
            expected = "text"
        case "list_type":
            expected = "a list"
        case "too_short":
            expected = f"at least {context['min_length']} entry"
        case "model_type" | "dict_type" | "model_attributes_type":
            expected = "a mapping of keys to values"
        case _:
            expected = item["msg"]
    if item["input"] is None:
        return f"{key} is empty, expected {expected}"
    return f"{key} is {_shown(item['input'])}, expected {expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else _shown(value)


def _unknown(key: str, near: str, loc: tuple[int | str, ...]) -> str:
    if key in SIMULATION_KEYS:
        hint = "; the seed of the noise is NOISE.SEED" if key == "SEED" else ""
        return (
            f"key {key} is known to romanimpreprocess's sim_to_isim "
            f"but not used by roman-dask-l2{hint}"
        )
    if near:
        return f"unknown key {key}, did you mean {near!r}?"
    block = ".".join(str(part) for part in loc[:-1])
    known = ", ".join(blocks()[block].model_fields)
    return f"unknown key {key}; known{f' in {block}' if block else ''} are {known}"


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """The known key that was probably meant, dotted; empty if none is near."""
    *outer, key = (str(part) for part in loc)
    if not outer and key in SIMULATION_KEYS:
        return ""
    block = ".".join(outer)
    prefix = f"{block}." if block else ""
    here = {name: f"{prefix}{name}" for name in blocks()[block].model_fields}
    elsewhere: dict[str, str] = {}
    for other, model in blocks().items():
        for name in model.model_fields if other != block else ():
            elsewhere.setdefault(name, f"{other}.{name}" if other else name)
    # The same word in another block is a likelier mistake than a similar word in this one, which
    # is likelier than a similar word in another block.
    for candidates, cutoff in ((here, 1.0), (elsewhere, 1.0), (here, 0.6), (elsewhere, 0.8)):
        if near := _nearest(key, candidates, cutoff):
            return candidates[near]
    return ""


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`, whatever the case of its letters."""
    folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else None
