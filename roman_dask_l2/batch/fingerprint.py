"""What of an exposure is finished: the fingerprint in its products against the one they would have.

A product is finished if its file is there and whole, and the fingerprint in it is that of the
configuration, input files, reference files and program as they are now. It stands in the file
itself (``provenance.fingerprint``), so the two cannot be separated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..config.model import Config
from ..config.recipe import load_recipe
from ..errors import InputError
from ..io.fits import fits_name
from ..io.layout import known_layout, read_head, read_layout
from ..products.choice import references_of
from ..products.provenance import NUMERIC, Product, describe, recipe_parts, whole_file
from ..system.files import look_again, status_now

_RECORDED = re.compile(rb"\bfingerprint: ['\"]?([0-9a-f]{64})\b")
_FITS_BLOCK = 2880
_BLOCKS = ("RAMP_OPT_PARS", "JUMP_DETECT_PARS", "JUMP_KW")


def product_files(config: Config) -> dict[Product, list[Path]]:
    """The files of each product, the one with the fingerprint first."""
    files: dict[Product, list[Path]] = {"l2": [config.OUT]}
    if config.NOISE is not None:
        files["noise"] = [config.NOISE.OUT]
    for names in files.values():
        if config.FITSOUT:
            names.append(fits_name(names[0]))
    return files


def find_unfinished(config: Config) -> tuple[dict[Product, str], dict[Product, str]]:
    """Which products have to be made, and why.

    Returns
    -------
    reasons : dict
        Product -> why it is not finished; empty if all are.
    fingerprints : dict
        Product -> the fingerprint that it would have now; empty if an input cannot be read.
    """
    try:
        wanted = _wanted(config)
    except InputError as error:
        return dict.fromkeys(product_files(config), error.problems[0]), {}
    reasons: dict[Product, str] = {}
    for product, files in product_files(config).items():
        reason = _why_not(files, wanted[product])
        if reason:
            reasons[product] = reason
    if "l2" in reasons and "noise" in wanted:
        reasons.setdefault("noise", "the L2 file is made anew")
    return reasons, {product: made["fingerprint"] for product, made in wanted.items()}


def _wanted(config: Config) -> dict[Product, dict[str, Any]]:
    """The provenance that each product would have now."""
    files = {"IN": {"content": read_head(config.IN)[1]}}
    references = config.references()
    if config.crds:
        made_with = load_recipe(config.GRAPH, config)
        references, _ = references_of(config, made_with, read_layout(config.IN))
    for key, path in references.items():
        try:
            files[key] = {"content": known_layout(path).content}
        except InputError as error:
            raise InputError(f"CALDIR.{key}: {problem}" for problem in error.problems) from None
    for key in ("FITSWCS", "GWCS"):
        path = getattr(config, key)
        if path is not None:
            try:
                files[key] = whole_file(path)
            except OSError as error:
                raise InputError(f"{key}: {path}: cannot be read ({error.strerror})") from None
    recipe = _recipe(_Key(config))
    return {product: describe(config, recipe, files, product) for product in product_files(config)}


class _Key:
    """A configuration, equal to others that give the same recipe."""

    def __init__(self, config: Config) -> None:
        self.config = config
        graph = Path(config.GRAPH)
        mtime = graph.stat().st_mtime_ns if os.path.isfile(graph) else 0
        kept = config.model_dump(mode="json", exclude={"IN", "OUT", "CALDIR", "NOISE"})
        # Which keys were given matters: a recipe's own options stand back for those only.
        given = sorted(config.model_fields_set)
        inner = [sorted(getattr(config, k).model_fields_set) for k in _BLOCKS if k in given]
        self._text = json.dumps([kept, given, inner, mtime], sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@lru_cache(maxsize=64)
def _recipe(key: _Key) -> dict[str, Any]:
    """The recipe's part of the provenance, once for all exposures that differ in files only."""
    return recipe_parts(load_recipe(key.config.GRAPH, key.config))


def _why_not(files: list[Path], wanted: Mapping[str, Any]) -> str:
    """Why a product is not finished; empty if it is."""
    main, *others = files
    for folder in {Path(os.path.realpath(p) if p.is_symlink() else p).parent for p in files}:
        look_again(folder)  # another batch may just have made them
    if not os.path.exists(main):
        return "not there"
    try:
        head, _ = read_head(main)
    except InputError as error:
        return error.problems[0]
    recorded = {found.decode() for found in _RECORDED.findall(head)}
    if recorded != {wanted["fingerprint"]}:
        return _difference(_provenance(main), wanted)
    for copy in others:
        status = status_now(copy)
        size = 0 if status is None else status.st_size
        if size == 0 or size % _FITS_BLOCK:
            return f"{copy.name} is {'not whole' if size else 'not there'}"
    return ""


def _provenance(path: Path) -> Mapping[str, Any]:
    """What a product says of its making; empty if nothing."""
    try:
        layout = read_layout(path)
    except InputError:
        return {}
    for key in (("provenance",), ("processinfo", "provenance")):
        found = layout.value(*key)
        if isinstance(found, Mapping):
            return found
    return {}


def _difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what differs between two provenances."""
    if "fingerprint" not in made:
        return "has no fingerprint, was made by something else"
    changes = []
    then, now = ({k: f.get("content") for k, f in m["files"].items()} for m in (made, wanted))
    changes += [
        f"{key} changed" for key in sorted(then.keys() | now) if then.get(key) != now.get(key)
    ]
    by_settings = _changed(made["settings"], wanted["settings"])
    changes += by_settings
    parts = {"code": "the code of a step", "outputs": "outputs", "border": "border"}
    if not by_settings:  # which change options, too
        parts |= {"steps": "steps or their options", "exclude_first": "exclude_first"}
    for key, name in parts.items():
        if made["recipe"].get(key) != wanted["recipe"][key]:
            changes.append(f"recipe: {name} changed")
    then, now = ({name: m["versions"].get(name) for name in NUMERIC} for m in (made, wanted))
    changes += _changed(then, now)
    return "; ".join(changes) or "another fingerprint"


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """``key: old -> new`` for all that differs."""
    changes = []
    for key in sorted(then.keys() | now.keys()):
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += _changed(old, new, f"{within}{key}.")
        elif old != new:
            changes.append(f"{within}{key}: {old} -> {new}")
    return changes
