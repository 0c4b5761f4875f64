"""Provenance of an output: versions, recipe, settings, input files, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..system.versions import SOURCE, versions

if TYPE_CHECKING:
    from ..config.model import Config
    from ..config.recipe import Recipe
    from .job import Job

Product: TypeAlias = Literal["l2", "noise"]
NUMERIC = ("roman-dask-l2", SOURCE, "numpy", "scipy", "numba", "stcal", "gwcs")
"""Packages on which the numbers of a product depend; the fingerprint covers their versions."""
COSMETIC = {"IN", "OUT", "FITSWCS", "GWCS", "CALDIR", "GRAPH", "FITSOUT", "NOISE", "SLICEOUT"}
COSMETIC |= {"NOISE_PRECISION", "JUMPOUT", "romancal_ramp_fit"}
"""Keys that are not settings of every product: names of files and of recipes, whose content counts,
and keys of one product only."""


def provenance(job: Job, product: Product = "l2") -> dict[str, Any]:
    """Versions, recipe with all options, settings, a checksum of each input file, and the
    fingerprint of all these.

    The checksum is a SHA-256 of the file's tree and block headers. They hold an MD5 of each block,
    so it changes with any pixel although no pixel is read.
    """
    files = {
        ("IN" if key == "l1" else key): {
            "name": Path(layout.path).name,
            "path": layout.path,
            "size": layout.size_and_mtime[0],
            "content": layout.content,
        }
        for key, layout in job.inputs.layouts.items()
    }
    for key in ("FITSWCS", "GWCS"):
        path = getattr(job.config, key)
        if path is not None:
            files[key] = whole_file(path)
    made = describe(job.config, recipe_parts(job.recipe), files, product)
    if job.crds is not None:
        made["crds"] = {
            "context": job.crds.context,
            "version": job.crds.software,
            "files": {key: path.name for key, path in job.crds.files.items()},
            "absent": list(job.crds.absent),
        }
    return made


def describe(
    config: Config,
    recipe: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    product: Product,
) -> dict[str, Any]:
    """`provenance` from its parts, without opening the exposure."""
    made = {
        "versions": versions(),
        "recipe": recipe,
        "settings": settings(config, product),
        "files": files,
    }
    return {**made, "fingerprint": _fingerprint(made)}


def recipe_parts(recipe: Recipe) -> dict[str, Any]:
    """Name, steps with all options, additional outputs, and checksums of foreign code."""
    return {
        "name": recipe.name,
        "steps": [{b.name: _plain(b.params.model_dump(mode="json"))} for b in recipe.steps],
        "outputs": list(recipe.outputs),
        "exclude_first": recipe.exclude_first,
        "border": recipe.border,
        "code": _foreign_code(recipe),
    }


def settings(config: Config, product: Product) -> dict[str, Any]:
    """The keys of a configuration that can change a number of a product, with defaults."""
    kept = config.model_dump(mode="json", exclude=COSMETIC)
    if product == "l2":
        return kept | {"SLICEOUT": config.SLICEOUT, "JUMPOUT": config.JUMPOUT}
    noise = config.NOISE
    assert noise is not None
    own = {"LAYER": list(noise.LAYER), "SEED": noise.SEED}
    return kept | {"NOISE": own, "NOISE_PRECISION": config.NOISE_PRECISION}


def _foreign_code(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the source of steps that are not part of this package, by the step's name."""
    found = {}
    for bound in recipe.steps:
        module = sys.modules[bound.step.kernel.__module__]
        file = getattr(module, "__file__", None)
        if file and module.__name__.partition(".")[0] != __name__.partition(".")[0]:
            found[bound.name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _fingerprint(made: Mapping[str, Any]) -> str:
    """BLAKE2b of all that can change a number, which paths and names of files cannot."""
    recipe = {key: value for key, value in made["recipe"].items() if key != "name"}
    covered = {
        "versions": {name: made["versions"][name] for name in NUMERIC},
        "recipe": recipe,
        "settings": made["settings"],
        "files": {key: file["content"] for key, file in made["files"].items()},
    }
    text = json.dumps(covered, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def whole_file(path: Path) -> dict[str, Any]:
    """Name, path, size and checksum of a small file, which is read whole."""
    data = path.read_bytes()
    return {
        "name": path.name,
        "path": str(path),
        "size": len(data),
        "content": hashlib.sha256(data).hexdigest(),
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, for ASDF."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
