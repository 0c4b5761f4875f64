"""Versions of Python, of packages, and of our own source."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

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

SOURCE = "roman-dask-l2 source"
"""Stands among the versions: between two releases only the source tells programs apart."""
HARMLESS = {
    "batch", "cli", "compat.py", "config/messages.py", "config/schema.py", "config/yaml_file.py",
    "drawing", "engine/clusters.py", "engine/keys.py", "engine/progress.py",
    "engine/same_versions.py", "engine/schedulers.py", "engine/slurm.py", "engine/watch.py",
    "engine/worker_process.py", "errors.py", "io/dataset.py", "products/precompile.py",
    "products/quality.py", "report", "simulation", "system",
}  # fmt: skip
"""Folders and files of this package that cannot change a number of a product."""


def _installed_version() -> str:
    try:
        return metadata.version("roman-dask-l2")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


__version__ = _installed_version()


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    found[SOURCE] = source_mark(Path(__file__).parents[1])
    return found


def source_mark(package: Path) -> str:
    """A hash of names and texts of the modules that can change a number."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in HARMLESS and name.as_posix() not in HARMLESS:
            text = path.read_bytes()
            digest.update(f"{name.as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number, and a mark of our source."""
    return dict(_versions())
