"""Rules that hold the house together, see docs/design.md."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from roman_datamodels import dqflags

import roman_dask_l2
from roman_dask_l2 import steps
from roman_dask_l2.core import dq, step
from roman_dask_l2.core.detector import Grid, Window
from roman_dask_l2.core.step import Step, Tile, Variable
from roman_dask_l2.engine import graph
from roman_dask_l2.steps.registry import STEPS, find_step

PACKAGE = Path(roman_dask_l2.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(), str(path))


def test_kernels_do_not_know_of_files_or_tasks():
    """Importing every steps module, in a fresh process, loads none of these."""
    names = [f"roman_dask_l2.steps.{m.name}" for m in pkgutil.iter_modules(steps.__path__)]
    assert len(names) > 10
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print(*sorted({{"dask", "distributed", "zarr", "asdf"}} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert found.stdout.split() == []


def test_no_print():
    """Logging only. The command line writes to its streams by `write`."""
    calls = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        and path.name not in ("cli.py", "__main__.py")
    ]  # fmt: skip
    assert calls == []


def test_numba_is_used_in_one_place():
    """One decorator: no GIL, no threads of its own, IEEE order, cached."""
    users = [path.name for path in MODULES if "import numba" in path.read_text()]
    assert users == ["jit.py"]
    found = 0
    for name in STEPS:
        module = importlib.import_module(find_step(name, "").kernel.__module__)
        for value in vars(module).values():
            if hasattr(value, "targetoptions"):
                found += 1
                options = value.targetoptions
                assert options["nogil"]
                assert not options.get("parallel")
                assert not options.get("fastmath")
                assert value._cache.cache_path
    assert found > 5


def test_flags_are_those_of_roman_datamodels():
    pixel = {f.name: int(f) for f in dqflags.pixel if f and not f.name.startswith("RESERVED")}
    group = {f.name: int(f) for f in dqflags.group if f}
    assert pixel == dq.PIXEL
    assert group == dq.GROUP
    assert set(dq.MASK_GROWTH) < set(dq.PIXEL)
    assert set(dq.MASK_GROWTH.values()) <= set(dq.GROWTHS)


# -- declarations --------------------------------------------------------------------------------


def kernel(ramp, gain, *, tile, params):
    return ramp


GOOD = {"name": "x", "kernel": kernel, "reads": ("ramp",), "writes": ("ramp",),
        "references": {"gain": "gain.data"}}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"reads": ("ramp", "dq")}, r"lacks declared \['dq'\]"),
        ({"reads": ()}, r"takes undeclared \['ramp'\]"),
        ({"references": {}}, r"takes undeclared \['gain'\]"),
        ({"references": {"gain": "gain.data", "flat": "flat.data"}}, r"lacks declared \['flat'\]"),
        ({"writes": ("ramp", "rump")}, r"unknown variables \['rump'\]"),
        ({"settings": {"order": "SKYORDER"}}, r"settings for unknown parameters \['order'\]"),
    ],
)
def test_declarations_are_checked(change, message):
    if message is None:
        Step(**GOOD)
    else:
        with pytest.raises(TypeError, match=message):
            Step(**(GOOD | change))


def prepare(gain, *, tile):
    return gain


def light(ramp, *, prepared, params):
    return ramp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"kernel": kernel}, r"takes undeclared \[\], lacks declared \['prepared'\]"),
        ({"prepare": None}, r"takes undeclared \['prepared'\], lacks declared \['gain'\]"),
        ({"prepare": lambda gain, ramp: 0}, r"prepare <lambda> .* takes undeclared \['ramp'\]"),
        ({"prepare": lambda gain, exposure: 0}, r"takes undeclared \['exposure'\]"),
        ({"references": {"gain": "gain.data", "flat": "flat.data"}}, r"lacks declared \['flat'\]"),
    ],
)
def test_what_is_prepared_is_checked(change, message):
    good = GOOD | {"kernel": light, "prepare": prepare}
    if message is None:
        Step(**good)
    else:
        with pytest.raises(TypeError, match=message):
            Step(**(good | change))


def test_every_step_is_documented():
    for name in STEPS:
        found = find_step(name, "")
        assert found.name == name
        assert found.kernel.__doc__
        references = found.references_for(found.params())
        assert all("." in reference for reference in references.values())
    assert all(isinstance(v, Variable) and v.meaning for v in step.VARIABLES.values())


def locked(value):
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    return value


@pytest.mark.parametrize("recipe", ["l1_to_l2", "romanimpreprocess_1.0"])
def test_kernels_do_not_change_their_inputs(recipe, simulated, pipeline):
    """Every input is read-only, as Dask may hand it over. The outputs do not alias an input, or
    if they do (nothing to correct), nobody minds, because nobody writes to it."""
    steps_, inputs = pipeline(
        simulated(
            detector="WFI18", dark_decay=True, wfi18_transient=True, reference_read=1000,
            conditions=("saturation", "nan_reference", "guide_window", "dropout", "flat"),
        ),
        recipe, correct_wfi18_transient=True,
    )  # fmt: skip
    assert len(steps_) > 12
    measured = graph.build(steps_, inputs, Grid(256, (256, 256)), ["data"]).measured
    import dask

    with dask.config.set(scheduler="synchronous"):
        measured = dask.compute(measured)[0]
    window = Window(0, 100, 90, 256)
    tile, have = Tile(window, 256), {}
    for bound in steps_:
        s = bound.step
        names = {k: n for k, n in s.references_for(bound.params).items() if inputs.available(n)}
        given = {k: locked(inputs.sources[n].read(window)) for k, n in names.items()}
        given |= {k: have[k] for k in s.reads} | {k: have.get(k) for k in s.optional_reads}
        found = {k: locked(v) for k, v in measured.get(s.name, {}).items()}
        context = {"tile": tile, "exposure": inputs.exposure, "params": bound.params}
        context["measured"] = found
        reads = {k: given.pop(k) for k in (*s.reads, *s.optional_reads)}
        prepared = s.prepared(given, context)
        for value in prepared if isinstance(prepared, tuple) else ():
            locked(value)
        results = s.apply(reads, given, context, prepared)
        have |= {k: locked(v) for k, v in zip(s.writes, results, strict=True)}
    assert np.isfinite(have["data"]).all()
