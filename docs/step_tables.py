"""Tables of steps, flags and arrays, written from their declarations so that they cannot drift."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping

from roman_dask_l2.config.model import blocks
from roman_dask_l2.config.recipe import load_recipe, shipped
from roman_dask_l2.core import dq
from roman_dask_l2.core.step import VARIABLES, BoundStep, Params
from roman_dask_l2.io.l2_arrays import IMAGE_ARRAYS, variable_of
from roman_dask_l2.io.references import ARRAYS
from roman_dask_l2.steps.registry import STEPS, find_step

LENGTHS = {
    "r": "R", "b": "3⌈R/8⌉", "p": "P", "k": "3", "a": "128",
    "c": "N/128", "f": "70N+1", "v": "V",
    "y": "N", "x": "N", "Y": "N-8", "X": "N-8",
}  # fmt: skip
COMPUTED = {
    "wcs.area": ("(N, N)", "float64", "", "solid angle over that of a (0.11 arcsec)² pixel"),
    "detector.read_time": ("(N, N)", "float64", "s", "when in a frame each pixel is read"),
}
"""Sources that come from no array of a file: shape, type, unit, meaning."""


def tables() -> dict[str, str]:
    """Name -> MyST Markdown."""
    bound = every_step()
    made = {f"step_{name}": step_table(b) for name, b in bound.items()}
    return made | {
        "steps": overview(bound.values()),
        "flags": flags(),
        "groupflags": group_flags(),
        "copied_flags": copied_flags(),
        "growth": growth(),
        "variables": variables(),
        "references": references(),
        "image_arrays": image_arrays(),
        "recipes": recipes(),
    }


def every_step() -> dict[str, BoundStep]:
    """Every step that recipes can name, with its default options."""
    steps = {name: find_step(name, "docs") for name in STEPS}
    return {name: BoundStep(step, step.params()) for name, step in steps.items()}


def overview(steps: Iterable[BoundStep]) -> str:
    """One row for each step."""
    rows = []
    for bound in steps:
        step, reduction = bound.step, bound.step.reduction
        read = [*step.reads, *step.optional_reads]
        read += reduction.reads_for(bound.params) if reduction else ()
        named = [*_references_of(bound).values()]
        if reduction:
            measured = reduction.references_for(bound.params).values()
            named += [*measured, *reduction.whole.values()]
        if step.spill:
            named += step.spill.references.values()
        rows.append(
            (
                f"[`{step.name}`](#{step.name})",
                _codes(read),
                _codes(step.writes),
                _codes(named),
                str(_halo(bound)),
                f"`{step.cal_step}`" if step.cal_step else "",
            )
        )
    return _table(("step", "reads", "writes", "references", "halo (pixels)", "`cal_step`"), rows)


def step_table(bound: BoundStep) -> str:
    """What one step reads and writes, its reference arrays, and its options."""
    step, reduction = bound.step, bound.step.reduction
    rows = [("reads", *_variable(name)) for name in step.reads]
    rows += [("reads, if there", *_variable(name)) for name in step.optional_reads]
    rows += [("reference", *_array(name)) for name in _references_of(bound).values()]
    if reduction:
        rows += [("measures", *_variable(name)) for name in reduction.reads_for(bound.params)]
        measured = reduction.references_for(bound.params).values()
        rows += [("measures, reference", *_array(n)) for n in measured]
        rows += [("measures, whole", *_array(n)) for n in reduction.whole.values()]
    if step.spill:
        rows += [("spills, reference", *_array(n)) for n in step.spill.references.values()]
    rows += [("writes", *_variable(name)) for name in step.writes]
    text = _table(("", "array", "shape", "type", "unit", "meaning"), rows)
    text += f"\nHalo: {_halo(bound)} pixels."
    texts = docstrings(step.params)
    options = [
        (
            f"`{name}`",
            "[the table](#growth-table)" if name == "growth" else f"`{field.default}`",
            f"`{step.settings[name]}`" if name in step.settings else "",
            texts[name],
        )
        for name, field in step.params.model_fields.items()
    ]
    if not options:
        return text + " No options.\n"
    return text + "\n\n" + _table(("option", "default", "set by key", "meaning"), options)


def flags() -> str:
    """Flags of pixels: who sets each, and how far it grows in the combined mask."""
    rows = (
        (*_bit(name, value), _setters(name, pixels=True), str(dq.MASK_GROWTH.get(name, 0)))
        for name, value in dq.PIXEL.items()
    )
    return _table(("flag", "bit", "value", "set by", "pixels masked"), rows)


def group_flags() -> str:
    """Flags of resultants, and who sets each."""
    rows = ((*_bit(n, v), _setters(n, pixels=False)) for n, v in dq.GROUP.items())
    return _table(("flag", "bit", "value", "set by"), rows)


def copied_flags() -> str:
    """Where flags of files come in."""
    rows = []
    for bound in every_step().values():
        for name in _references_of(bound).values():
            if name.endswith("dq"):
                into = "groupdq" if name == "l1.resultantdq" else _flags_written(bound)
                rows.append((_link(bound.name), f"`{name}`", f"`{into}`"))
    return _table(("step", "takes over", "into"), rows)


def _flags_written(bound: BoundStep) -> str:
    """The two-dimensional flags that a step writes."""
    return next(name for name in bound.step.writes if name in ("pixeldq", "dq"))


def _bit(name: str, value: int) -> tuple[str, str, str]:
    return f"`{name}`", str(value.bit_length() - 1), str(value)


def _setters(flag: str, pixels: bool) -> str:
    """Steps that set a flag of pixels, or else of resultants."""
    steps = (
        _link(bound.name)
        for bound in every_step().values()
        if any(flag in f for v, f in bound.step.sets.items() if (v != "groupdq") == pixels)
    )
    return ", ".join(steps) or "files only"


def _link(step: str) -> str:
    return f"[{step}](algorithms.md#{step})"


def growth() -> str:
    """The mask-growth table, turned round: size -> flags."""
    rows = []
    for size in dq.GROWTHS:
        names = [name for name, pixels in dq.MASK_GROWTH.items() if pixels == size]
        rows.append((str(size), _codes(names)))
    unused = [name for name in dq.PIXEL if name not in dq.MASK_GROWTH]
    rows.append(("0", _codes(unused)))
    return _table(("pixels masked", "flags"), rows)


def variables() -> str:
    """Arrays that flow between steps."""
    rows = (_variable(name) for name in VARIABLES)
    return _table(("variable", "shape", "type", "unit", "meaning"), rows)


def references() -> str:
    """Arrays of the Level-1 and reference files, and the two that are computed."""
    lines = []
    needed = blocks()["CALDIR"].model_fields
    for name, array in ARRAYS.items():
        key = name.split(".")[0]
        file = key == "l1" or needed[key].is_required()
        state = "required" if array.required else "optional"
        if array.required and not file:
            state = "required in its file, which is optional"
        lines.append((*_array(name), state))
    lines += [(*_array(name), "computed") for name in COMPUTED]
    return _table(("array", "shape", "type", "unit", "meaning", ""), lines)


def image_arrays() -> str:
    """Arrays on the active pixels in the Level-2 file."""
    rows = []
    for name, dtype in IMAGE_ARRAYS.items():
        variable = VARIABLES[variable_of(name)]
        rows.append((f"`{name}`", "(N-8, N-8)", dtype, _unit(variable.unit), variable.meaning))
    return _table(("array", "shape", "type", "unit", "meaning"), rows)


def recipes() -> str:
    """Options in which each shipped recipe differs from the steps' defaults."""
    rows = []
    for name in shipped():
        for bound in load_recipe(name).steps:
            defaults = bound.step.params()
            changed = {
                option: value
                for option, value in bound.params.model_dump().items()
                if value != getattr(defaults, option)
            }
            rows += [(f"`{name}`", f"`{bound.name}`", f"`{o}: {v}`") for o, v in changed.items()]
    return _table(("recipe", "step", "option"), rows)


def docstrings(params: type[Params]) -> dict[str, str]:
    """The text below each option in the source of its class."""
    body = ast.parse(inspect.getsource(params)).body[0].body
    found = {}
    for statement, after in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
            found[statement.target.id] = _one_line(ast.literal_eval(after.value))
    return found


def _references_of(bound: BoundStep) -> Mapping[str, str]:
    return bound.step.references_for(bound.params)


def _halo(bound: BoundStep) -> int:
    """Pixels that the step looks beyond a tile, in its variables or its reference arrays."""
    step = bound.step
    return max(step.halo(bound.params), step.reference_halo(bound.params))


def _variable(name: str) -> tuple[str, ...]:
    v = VARIABLES[name]
    return f"`{name}`", _shape(v.dims), v.dtype, _unit(v.unit), v.meaning


def _array(name: str) -> tuple[str, ...]:
    if name in COMPUTED:
        shape, dtype, unit, meaning = COMPUTED[name]
        return f"`{name}`", shape, dtype, _unit(unit), meaning
    a = ARRAYS[name]
    if not a.dims:
        return f"`{name}`", "", "value", _unit(a.unit), a.meaning
    return f"`{name}`", _shape(a.dims), a.dtype or "as stored", _unit(a.unit), a.meaning


def _shape(dims: str) -> str:
    return "(" + ", ".join(LENGTHS[d] for d in dims) + ")"


def _unit(unit: str) -> str:
    return unit or "-"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
