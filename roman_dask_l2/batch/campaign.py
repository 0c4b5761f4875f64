"""A campaign file: the template of a configuration, and the exposures that it is for."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from ..config.messages import sentences
from ..config.model import Block, Config, readable_paths, validated
from ..config.noise_labels import parse_all, warn_about
from ..config.recipe import load_recipe
from ..config.types import Count, FilePath, resolve_path
from ..config.yaml_file import display_name, read_yaml, require_kind
from ..errors import InputError
from ..io.fits import fits_name
from ..system.text import nearest
from .header import HEADER, header_values
from .placeholders import bad_texts, fill, placeholders
from .sources import Exposures, Found, few, find_exposures

DEFAULT_OUT = "sim_L2_{filter}_{obs}_{sca}.asdf"
"""OUT where the template gives none: the names that PyIMCOM looks for."""
DEFAULT_NOISE_OUT = "sim_L2_{filter}_{obs}_{sca}_noise.asdf"


def _short_list(value: Any) -> Any:
    return {"list": value} if isinstance(value, list) else value


class CampaignFile(Block):
    """The keys of a campaign file. Relative paths start at the folder of the file."""

    template: dict[str, Any]
    """The configuration of one exposure; its texts may hold ``{placeholders}``."""
    exposures: Annotated[Exposures, BeforeValidator(_short_list)]
    """Where the exposures come from."""
    SEED: Count | None = None
    """With a NOISE block: NOISE.SEED of an exposure is made from this number and its identity."""
    manifest: FilePath | None = None
    """The log; by default it lies beside the campaign file and has its name with
    ``.manifest.jsonl`` instead of the suffix."""


@dataclass(frozen=True)
class Entry:
    """One exposure of a campaign.

    Attributes
    ----------
    values : tuple of (str, str)
        Its placeholders and their values, sorted by name.
    settings : dict
        Its configuration, as a file of its own would have it.
    origin : str
        Where it comes from, for messages.
    """

    values: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any] = field(repr=False)
    origin: str = ""

    @property
    def identity(self) -> str:
        """``name=value`` of all placeholders, with commas between."""
        return ",".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True)
class Campaign:
    """A campaign file that was read.

    Attributes
    ----------
    path : Path
    manifest : Path
    entries : tuple of Entry
        In the order of work: exposures with the same reference files stand together.
    """

    path: Path
    manifest: Path
    entries: tuple[Entry, ...]

    @property
    def base(self) -> Path:
        return self.path.parent

    def config(self, entry: Entry) -> Config:
        """The validated configuration of one exposure.

        Raises
        ------
        InputError
        """
        return configuration(entry.settings, self.path)


def configuration(settings: Mapping[str, Any], campaign: Path) -> Config:
    """Validate the configuration of one exposure of a campaign.

    Raises
    ------
    InputError
        One line for each thing that is wrong, beginning with the campaign file.
    """
    return validated(dict(settings), campaign.parent, campaign)


def load_campaign(path: str | os.PathLike[str]) -> Campaign:
    """Read a campaign file and find its exposures. Their configurations are not validated yet.

    Parameters
    ----------
    path : path
        The YAML file.

    Raises
    ------
    InputError
        With everything that is wrong with the file, the placeholders, or the list of exposures.
    """
    file = Path(path).absolute()
    raw = read_yaml(file)
    require_kind(raw, "campaign", file)
    model = _campaign_file(raw, file)
    template = _with_defaults(model, file)
    used = sorted(set(placeholders(template)))
    problems: list[str] = []
    entries: list[Entry] = []
    for found in _found(model, file):
        values = tuple(sorted(found.values.items()))
        missing = [name for name in used if name not in found.values]
        if wrong := [name for name in missing if name not in HEADER]:
            problems.append(_lacks(wrong[0], found, template))
            continue
        if not found.all_count:  # a table may have columns that mean nothing here
            values = tuple(item for item in values if item[0] in used)
        try:
            known = _with_header(found, template, file.parent) if missing else found.values
            settings = fill(template, known)
        except InputError as error:
            problems += [f"{found.origin}: {{{missing[0]}}}: {line}" for line in error.problems]
            continue
        except ValueError as error:
            problems.append(f"{found.origin}: {error}")
            continue
        if found.path is not None:
            settings.setdefault("IN", found.path)
        if model.SEED is not None and isinstance(settings.get("NOISE"), dict):
            settings["NOISE"]["SEED"] = seed(model.SEED, values)
        entries.append(Entry(values, settings, found.origin))
    problems = few(problems)
    if not problems:
        problems = few(_doubles(entries)) or few(_overwritten(entries, file.parent))
    if problems:
        raise InputError(f"{display_name(file)}: {line}" for line in problems)
    manifest = model.manifest or file.with_name(f"{file.stem}.manifest.jsonl")
    return Campaign(file, manifest, tuple(sorted(entries, key=_order)))


def _with_header(found: Found, template: Mapping[str, Any], base: Path) -> dict[str, str]:
    """The values of an exposure with those that its Level-1 file gives."""
    text = template.get("IN", found.path)
    if not isinstance(text, str) or set(HEADER) & set(placeholders(text)):
        raise InputError(f"IN is {text!r}, expected a Level-1 file in whose header it stands")
    try:
        path = resolve_path(fill(text, found.values), base)
    except PydanticCustomError as error:
        raise InputError(f"IN: {error.message()}") from None
    return {**header_values(path), **found.values}


def _found(model: CampaignFile, file: Path) -> list[Found]:
    try:
        return find_exposures(model.exposures, file.parent)
    except InputError as error:
        raise InputError(f"{display_name(file)}: {line}" for line in error.problems) from None


# -- the file ------------------------------------------------------------------------------------


def _campaign_file(raw: dict[Any, Any], file: Path) -> CampaignFile:
    known = CampaignFile.model_fields
    problems = [_unknown(str(key)) for key in raw if key not in known]
    given = {key: value for key, value in raw.items() if key in known}
    if isinstance(where := given.get("exposures"), dict):
        names = ("list", "glob", "table")
        for key in [key for key in where if key not in names]:
            near = nearest(str(key), names)
            hint = f"did you mean {near!r}?" if near else "expected list, glob or table"
            problems.append(f"exposures: unknown key {key}, {hint}")
    if problems:
        raise InputError(f"{display_name(file)}: {line}" for line in problems)
    model = None
    try:
        model = CampaignFile.model_validate(given, context={"base": file.parent})
    except ValidationError as error:
        problems += sentences(error, {"": CampaignFile})
    else:
        noise = model.template.get("NOISE")
        if isinstance(noise, dict) and "SEED" in noise:
            problems.append(
                "template.NOISE.SEED: give SEED at the top of the campaign file instead; the "
                "seed of each exposure is made from it"
            )
        elif noise is not None and model.SEED is None:
            problems.append("required key SEED is missing: the template has a NOISE block")
    if model is None or problems:
        raise InputError(f"{display_name(file)}: {line}" for line in problems)
    return model


def _unknown(key: str) -> str:
    if key in Config.model_fields:
        return f"key {key} is one of a configuration: put it under template"
    known = [*CampaignFile.model_fields]
    near = nearest(key, known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key}, {hint}"


def _with_defaults(model: CampaignFile, file: Path) -> dict[str, Any]:
    """The template with the output names that it may leave out."""
    template = copy.deepcopy(model.template)
    template.setdefault("OUT", DEFAULT_OUT)
    if isinstance(template.get("NOISE"), dict):
        template["NOISE"].setdefault("OUT", DEFAULT_NOISE_OUT)
        template["SLICEOUT"] = True  # noise layers need it, as in a single run
    problems = [f"template: {problem}" for problem in bad_texts(template)]
    if problems:
        raise InputError(f"{display_name(file)}: {line}" for line in problems)
    return template


def seed(base: int, values: Sequence[tuple[str, str]]) -> int:
    """NOISE.SEED of an exposure, 63 bits: BLAKE2b of the campaign's SEED and the identity."""
    text = json.dumps([base, [list(item) for item in values]], ensure_ascii=False)
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"roman-dask-l2 b1").digest()
    return int.from_bytes(digest, "little") >> 1  # ASDF has no larger integers


def _lacks(name: str, found: Found, template: Mapping[str, Any]) -> str:
    near = nearest(name, found.values)
    hint = f", did you mean {near!r}?" if near else f"; it has {', '.join(found.values)}"
    where = ""
    if name in ("filter", "obs", "sca"):
        defaults = [("OUT", template, DEFAULT_OUT)]
        defaults += [("NOISE.OUT", template.get("NOISE") or {}, DEFAULT_NOISE_OUT)]
        keys = [key for key, block, text in defaults if block.get("OUT") == text]
        where = f" ({' and '.join(keys)}: default name)" if keys else ""
    if found.path is not None:  # all that were found have the same names
        return f"exposures.glob has no {{{name}}}, which the template uses{where}{hint}"
    return f"{found.origin} has no {name!r}, which the template uses{where}{hint}"


# -- what exposures may not share ----------------------------------------------------------------


def _doubles(entries: Iterable[Entry]) -> list[str]:
    first: dict[str, Entry] = {}
    problems = []
    for entry in entries:
        other = first.setdefault(entry.identity, entry)
        if other is not entry:
            problems.append(
                f"{other.origin} and {entry.origin} are the same exposure, {entry.identity}"
            )
    return problems


def _overwritten(entries: Sequence[Entry], base: Path) -> list[str]:
    """No file may be written by two exposures, or be read by one and written by another."""
    if not entries:
        return []
    folders = cache(os.path.realpath)

    def real(path: Path) -> str:
        inside = os.path.join(folders(path.parent), path.name)
        return os.path.realpath(inside) if os.path.islink(inside) else inside

    @cache
    def meant(text: str | None) -> Path | None:
        """The file that a text means; None if that cannot be told."""
        try:
            return Path(resolve_path(text, base)) if text else None
        except PydanticCustomError:
            return None

    scratch = ("TEMP", "NOISE.TEMP")
    keys = [key for key in readable_paths(dict(entries[0].settings), base) if key not in scratch]
    written: dict[str, tuple[Entry, str]] = {}
    read: dict[str, tuple[Entry, str]] = {}
    problems = []
    for entry in entries:
        for key in keys:
            path = meant(_text(entry.settings, key))
            if path is None:
                continue
            if key not in ("OUT", "NOISE.OUT"):
                read.setdefault(real(path), (entry, key))
                continue
            copies = [fits_name(path)] if entry.settings.get("FITSOUT") else []
            for name in map(real, (path, *copies)):
                other, its = written.setdefault(name, (entry, key))
                if (other, its) != (entry, key):
                    problems.append(_same(name, other, its, entry, key))
    for name in written.keys() & read.keys():
        problems.append(_same(name, *written[name], *read[name]))
    return problems


def _same(name: str, one: Entry, key: str, other: Entry, other_key: str) -> str:
    return f"{key} of {one.identity} and {other_key} of {other.identity} are the same file, {name}"


def _text(settings: Mapping[str, Any], key: str) -> str | None:
    """The text of a dotted key."""
    block, _, name = key.rpartition(".")
    values = settings.get(block) if block else settings
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) else None


def natural(text: str) -> list[Any]:
    """A key that sorts 2 before 10."""
    return [(0, int(p), p) if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text)]


def _order(entry: Entry) -> Any:
    """Exposures with the same reference files follow each other: these are opened once."""
    caldir = entry.settings.get("CALDIR")
    files = sorted(map(str, caldir.values())) if isinstance(caldir, Mapping) else []
    return [natural(f) for f in files], [natural(value) for _, value in entry.values]


# -- choosing ------------------------------------------------------------------------------------


def parse_share(text: str | None) -> tuple[int, int]:
    """``2/8`` as (2, 8); everything, (1, 1), for None.

    Raises
    ------
    InputError
    """
    if text is None:
        return 1, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        raise InputError(f"--share {text}: expected i/n with i from 1 to n, such as 1/8")
    return i, n


def share(entries: Sequence[Entry], i: int, n: int) -> Sequence[Entry]:
    """The i-th of n shares: each exposure is in exactly one, sizes differ by one at most.

    Exposures that stand together stay together, so a share needs few sets of reference files.
    """
    return entries[(i - 1) * len(entries) // n : i * len(entries) // n]


def only(entries: Sequence[Entry], patterns: Sequence[str]) -> Sequence[Entry]:
    """Exposures that fit any of some patterns ``name=value,...`` (values may be globs).

    Raises
    ------
    InputError
        If a pattern is none, names an unknown placeholder, or fits nothing.
    """
    if not patterns:
        return entries
    names = dict(entries[0].values) if entries else {}
    chosen: set[str] = set()
    for pattern in patterns:
        wanted = {}
        for part in pattern.split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or not value:
                raise InputError(f"--only {pattern}: expected name=value, such as sca=3")
            if entries and name not in names:
                near = nearest(name, names)
                hint = f"did you mean {near!r}?" if near else f"known are {', '.join(names)}"
                raise InputError(f"--only {pattern}: no placeholder {name!r}, {hint}")
            wanted[name] = value
        fitting = {
            entry.identity
            for entry in entries
            if all(fnmatchcase(dict(entry.values)[k], v) for k, v in wanted.items())
        }
        if not fitting:
            raise InputError(f"--only {pattern}: no exposure is like that")
        chosen |= fitting
    return [entry for entry in entries if entry.identity in chosen]


def check_configurations(campaign: Campaign, entries: Sequence[Entry]) -> dict[str, Config]:
    """Validate the configurations of some exposures: keys and values, no files.

    Returns
    -------
    dict of str to Config
        By identity.

    Raises
    ------
    InputError
        What is wrong with all of them is told once.
    """
    configs: dict[str, Config] = {}
    problems: dict[str, list[Entry]] = {}
    recipes: set[str] = set()
    for entry in entries:
        try:
            config = campaign.config(entry)
            noise = config.NOISE
            fit = config.raw.get("romancal_ramp_fit")  # not given, it is not false
            how = json.dumps([str(config.GRAPH), fit, noise and noise.LAYER])
            if how not in recipes:
                load_recipe(config.GRAPH, config)
                if noise is not None:
                    warn_about(layer for layer, _ in parse_all(noise.LAYER))
                recipes.add(how)
            configs[entry.identity] = config
        except InputError as error:
            for line in error.problems:
                problems.setdefault(
                    line.removeprefix(f"{display_name(campaign.path)}: "), []
                ).append(entry)
    if problems:
        lines = [
            f"template: {line}" if len(who) == len(entries) else f"{who[0].identity}: {line}"
            for line, who in problems.items()
        ]
        raise InputError(f"{display_name(campaign.path)}: {line}" for line in few(lines))
    return configs
