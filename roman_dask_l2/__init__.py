"""Calibrate exposures of the Roman Wide Field Instrument from Level 1 to Level 2, with Dask.

`calibrate` runs a configuration and writes its files, `generate_noise` makes its noise layers;
`l1_to_l2` returns the lazy Dask arrays, `open_l2` opens a finished file with xarray, `simulate`
writes an exposure with known truth. `Step`, `Params`, `kernel` and `PIXEL` are what a step of your
own needs. These names stay where they are; everything else may move. All are imported on first
use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.dq import PIXEL as PIXEL
    from .core.jit import kernel as kernel
    from .core.step import Params as Params
    from .core.step import Step as Step
    from .engine.options import RunOptions as RunOptions
    from .engine.schedulers import running as running
    from .errors import ClusterError as ClusterError
    from .errors import InputError as InputError
    from .io.dataset import open_l2 as open_l2
    from .products.job import prepare as prepare
    from .products.level2 import calibrate as calibrate
    from .products.level2 import l1_to_l2 as l1_to_l2
    from .products.noise_layers import generate_noise as generate_noise
    from .simulation.simulate import simulate as simulate
    from .system.versions import __version__ as __version__

_HOME = {
    "ClusterError": "errors",
    "InputError": "errors",
    "PIXEL": "core.dq",
    "Params": "core.step",
    "RunOptions": "engine.options",
    "Step": "core.step",
    "__version__": "system.versions",
    "calibrate": "products.level2",
    "generate_noise": "products.noise_layers",
    "kernel": "core.jit",
    "l1_to_l2": "products.level2",
    "open_l2": "io.dataset",
    "prepare": "products.job",
    "running": "engine.schedulers",
    "simulate": "simulation.simulate",
}

__all__ = [*_HOME]  # noqa: PLE0604  (the keys are names)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
