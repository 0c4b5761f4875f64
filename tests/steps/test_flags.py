"""Steps set the flags that they declare, and no others."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from roman_dask_l2.core.detector import Grid
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.step import BoundStep, NoParams, Step
from roman_dask_l2.engine import graph
from roman_dask_l2.steps.registry import STEPS, find_step

FLAGS = ("groupdq", "pixeldq", "dq")
BEFORE = {"dq": "pixeldq"}
"""What the ramp fit makes `dq` of."""

BAD = {
    ("flat", "rate"): -20,
    ("flat_observatory", "rate"): -20,
    ("flat_observatory", "flat_err"): -22,
    ("linearity_polynomial", "ramp"): -24,
    ("dark_rate_observatory", "dark_slope"): -26,
}
"""Column where an array of a step is NaN, which nothing in the simulation makes it."""


def watched(bound, found):
    """The step, with a kernel that notes which bits were not there before, nor in a file."""
    kernel, step = bound.step.kernel, bound.step
    taken = {}  # references that the step's other function gets

    def prepare(**references):
        taken.update(references)
        return step.prepare(**references)

    @functools.wraps(kernel)
    def noting(**inputs):
        for (name, array), x in BAD.items():
            if step.name == name and inputs.get(array) is not None:
                inputs[array] = inputs[array].copy()
                inputs[array][..., -20, x] = np.nan
        if step.name == "event_flags":  # nor such a snowball
            inputs["groupdq"] = inputs["groupdq"].copy()
            inputs["groupdq"][4, 40:64, 40:64] |= np.uint8(GROUP["JUMP_DET"])
            inputs["groupdq"][4:, 48:56, 48:56] = np.uint8(GROUP["SATURATED"])
        results = kernel(**inputs)
        written = results if isinstance(results, tuple) else (results,)
        for name, flags in zip(step.writes, written, strict=True):
            if name not in FLAGS:
                continue
            kept = inputs.get(name, inputs.get(BEFORE.get(name, ""), 0))
            files = [
                (taken | inputs)[keyword]
                for keyword, source in step.references_for(bound.params).items()
                if source.endswith("dq")
                and (source == "l1.resultantdq") == (name == "groupdq")
                and (taken | inputs).get(keyword) is not None
            ]
            for known in (kept, *files):
                flags = flags & ~np.asarray(known, flags.dtype)
            found[step.name, name] |= int(np.bitwise_or.reduce(flags, axis=None))
        return results

    changes = {}
    if step.prepare is not None:
        changes["prepare"] = functools.wraps(step.prepare)(prepare)
    return BoundStep(replace(step, kernel=noting, **changes), bound.params)


def with_flat_error(bound):
    """The observatory's flat field with its option that reads the flat's error."""
    if bound.name != "flat_observatory":
        return bound
    return BoundStep(bound.step, bound.params.model_copy(update={"include_var_flat": True}))


def declared():
    bits = {}
    for name in STEPS:
        step = find_step(name, "test")
        for variable in step.writes:
            if variable in FLAGS:
                table = GROUP if variable == "groupdq" else PIXEL
                bits[name, variable] = sum(table[f] for f in step.sets.get(variable, ()))
    return bits


def names(bits, variable):
    table = GROUP if variable == "groupdq" else PIXEL
    return {name for name, bit in table.items() if bits & bit}


@pytest.fixture(scope="module")
def observed(simulated, pipeline):
    """What each step has set in exposures with every kind of defect."""
    found = defaultdict(int)
    transient = {"detector": "WFI18", "conditions": "nan_reference", "reference_read": 1000}
    observatory = {"references": "observatory"}
    first_too = {"wfi18_mask_rows": True, "EXCLUDE_FIRST": False}
    for simulation, recipe, changes in (
        (simulated(), "l1_to_l2", {}),
        (simulated(), "l1_to_l2_likelihood", {"JUMP_KW": {"expand_large_events": True}}),
        (simulated(**transient), "l1_to_l2", first_too),
        (simulated(**transient), "l1_to_l2_likelihood", first_too),
        (simulated(**transient), "romanimpreprocess_1.0", {}),
        (simulated(**observatory), "observatory", {}),
        (simulated(**observatory), "romancal_1.1", {}),
    ):
        steps, inputs = pipeline(simulation, recipe, **changes)
        side = inputs.exposure.side
        if simulation.l1.parent == simulated(**transient).l1.parent:
            _lose_the_reference_read(inputs)
        steps = [watched(with_flat_error(bound), found) for bound in steps]
        lazy = graph.build(steps, inputs, Grid(side, (side, side)), ["dq", "mask"], False)
        lazy.arrays["dq"].compute(scheduler="synchronous")
    return found


def _lose_the_reference_read(inputs):
    """A reference read whose pixel is not finite, which a file of uint16 cannot hold."""
    source = inputs.sources["l1.reference_read"]

    class Lost:
        def __getattr__(self, name):
            return getattr(source, name)

        def read(self, *where):
            out = np.array(source.read(*where), np.float32)
            out[out.shape[0] // 2, out.shape[1] // 2] = np.nan
            return out

    inputs.sources["l1.reference_read"] = Lost()


def test_every_step_sets_what_it_declares(observed):
    for (step, variable), bits in declared().items():
        said = names(bits, variable)
        assert names(observed[step, variable], variable) == said, f"{step}: {variable}"
        assert observed[step, variable] & ~bits == 0


def test_a_flag_that_a_step_cannot_set():
    def kernel(dq):
        return dq

    with pytest.raises(TypeError, match="declares flags that it cannot set"):
        Step("x", kernel, ("dq",), ("dq",), params=NoParams, sets={"dq": ("WFI18_TRANSIENT",)})
    with pytest.raises(TypeError, match="declares flags that it cannot set"):
        Step("x", kernel, ("dq",), ("dq",), params=NoParams, sets={"groupdq": ("JUMP_DET",)})
