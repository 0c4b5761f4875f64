"""Names of steps, as recipes use them, and where each is declared."""

from __future__ import annotations

import importlib.resources

from ..core.step import Step
from ..errors import InputError
from ..system.text import nearest

STEPS: dict[str, str] = {
    "dq_init": "dq_init:step",
    "saturation": "saturation:step",
    "saturated_pixels": "all_saturated:record_step",
    "all_saturated": "all_saturated:step",
    "refpix": "refpix:step",
    "refpix_irrc": "refpix_irrc:step",
    "bias": "bias:step",
    "dark_decay": "dark_decay:step",
    "wfi18_transient": "wfi18_transient:step",
    "linearity": "linearity:step",
    "linearity_polynomial": "linearity_polynomial:step",
    "dark": "dark:step",
    "dark_rate": "dark:rate_step",
    "dark_rate_observatory": "dark_rate_observatory:step",
    "ipc": "ipc:step",
    "ramp_fit": "ramp_fit:step",
    "ramp_fit_likelihood": "ramp_likelihood:step",
    "flat": "flat:step",
    "assign_wcs": "assign_wcs:step",
    "flat_observatory": "flat_observatory:step",
    "photom": "photom:step",
    "statistics": "statistics:step",
    "event_flags": "large_events:flags",
    "large_events": "large_events:step",
    "mask": "mask:step",
    "medsky": "sky:medsky",
    "sky": "sky:step",
}
"""Step names of recipes -> where in `roman_dask_l2.steps` they are declared."""


def find_step(name: str, where: str) -> Step:
    """A step by its name or by a dotted path ``package.module:attribute``.

    Raises
    ------
    InputError
        If there is none.
    """
    if name in STEPS:
        module, attribute = STEPS[name].split(":")
        return getattr(importlib.import_module(f"roman_dask_l2.steps.{module}"), attribute)
    if ":" not in name and "." not in name:
        near = nearest(name, STEPS)
        hint = f", did you mean {near!r}?" if near else ""
        raise InputError(f"{where}: unknown step {name!r}{hint}")
    module, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        step = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: step {name!r} cannot be imported ({error})") from error
    if not isinstance(step, Step):
        raise InputError(f"{where}: {name!r} is {type(step).__name__}, not a Step")
    return step
