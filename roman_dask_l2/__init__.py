"""Calibrate exposures of the Roman Wide Field Instrument from Level 1 to Level 2, with Dask.

`calibrate` runs a configuration and writes its files, `generate_noise` makes its noise layers;
`l1_to_l2` returns the lazy Dask arrays, `open_l2` opens a finished file with xarray. All are
imported on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["InputError", "__version__", "calibrate", "generate_noise", "l1_to_l2", "open_l2"]

if TYPE_CHECKING:
    __version__: str
    from .dataset import open_l2
    from .errors import InputError
    from .noise.layers import generate_noise
    from .pipeline import calibrate, l1_to_l2

_HOME = {
    "InputError": "errors",
    "calibrate": "pipeline",
    "generate_noise": "noise.layers",
    "l1_to_l2": "pipeline",
    "open_l2": "dataset",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("roman-dask-l2")
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            return "0+unknown"
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
