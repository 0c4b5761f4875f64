"""Which versions, recipe, settings and files made an output, and a fingerprint of them all."""

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
"""Those of them on which the numbers of a product depend; the fingerprint covers these."""
COSMETIC = {"IN", "OUT", "FITSWCS", "GWCS", "CALDIR", "GRAPH", "FITSOUT", "NOISE", "SLICEOUT"}
COSMETIC |= {"NOISE_PRECISION"}
"""Keys of the configuration that are no settings of every product: files, and what only one has."""


def provenance(job: Job, product: Product = "l2") -> dict[str, Any]:
    """Versions, recipe with all options, settings, a mark of every input file's content, and the
    fingerprint of all that.

    The mark is a SHA-256 of the file's tree and block headers, which hold an MD5 of every block:
    it changes with any pixel, and costs no reading of them.
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
    return describe(job.config, recipe_parts(job.recipe), files, product)


def describe(
    config: Config,
    recipe: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    product: Product,
) -> dict[str, Any]:
    """`provenance` from its parts; needs no opened exposure."""
    made = {
        "versions": versions(),
        "recipe": recipe,
        "settings": settings(config, product),
        "files": files,
    }
    return {**made, "fingerprint": _fingerprint(made)}


def recipe_parts(recipe: Recipe) -> dict[str, Any]:
    """Name, steps with all options, further outputs, and marks of code that is not ours."""
    return {
        "name": recipe.name,
        "steps": [{b.name: _plain(b.params.model_dump(mode="json"))} for b in recipe.steps],
        "outputs": list(recipe.outputs),
        "code": _foreign_code(recipe),
    }


def settings(config: Config, product: Product) -> dict[str, Any]:
    """The keys of a configuration that can change a number of a product, with defaults."""
    kept = config.model_dump(mode="json", exclude=COSMETIC)
    if product == "l2":
        return kept | {"SLICEOUT": config.SLICEOUT}
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
    """BLAKE2b of what can change a number: where files lie and what they are called cannot."""
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
    """The same for a small file that is not a pipeline ASDF file."""
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
