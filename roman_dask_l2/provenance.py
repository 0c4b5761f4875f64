"""Which versions, recipe and files made an output."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .job import Job

PACKAGES = (
    "roman-dask-l2",
    "numpy",
    "scipy",
    "numba",
    "dask",
    "stcal",
    "asdf",
    "gwcs",
    "roman_datamodels",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def provenance(job: Job) -> dict[str, Any]:
    """Versions, recipe with all options, and a mark of every input file's content.

    The mark is a SHA-256 of the file's tree and block headers, which hold an MD5 of every block:
    it changes with any pixel, and costs no reading of them.
    """
    files = {
        ("IN" if key == "l1" else key): {
            "name": Path(layout.path).name,
            "path": layout.path,
            "size": layout.mark[0],
            "content": layout.content,
        }
        for key, layout in job.inputs.layouts.items()
    }
    for key in ("FITSWCS", "GWCS"):
        path = getattr(job.config, key)
        if path is not None:
            files[key] = whole_file(path)
    return {
        "versions": versions(),
        "recipe": {
            "name": job.recipe.name,
            "steps": [{b.name: _plain(b.params.model_dump(mode="json"))} for b in job.steps],
        },
        "files": files,
    }


def whole_file(path: Path) -> dict[str, Any]:
    """The same for a small file that is not a pipeline ASDF file."""
    import hashlib

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
