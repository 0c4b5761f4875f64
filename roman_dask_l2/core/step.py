"""What a calibration step is, and what flows between steps.

A step is data: a pure kernel and the declaration of what it reads and writes. Nothing here, and
nothing in `roman_dask_l2.steps`, knows of Dask, files or configuration; `roman_dask_l2.engine`
alone turns declarations into tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from .detector import Window
from .dq import GROUP, PIXEL
from .exposure import Exposure


@dataclass(frozen=True)
class Variable:
    """One array that flows between steps: its dimensions, dtype and meaning.

    Dimensions are y and x, with a first one before them or none: r, one plane for each resultant,
    or b, bits of `PACKED` flags of all resultants.
    """

    dims: str
    dtype: str
    unit: str
    meaning: str

    def lead(self, n_resultants: int) -> tuple[int, ...]:
        """Length of the first dimension, nothing for an image."""
        planes = {"ryx": n_resultants, "byx": len(PACKED) * -(-n_resultants // 8)}
        return (planes[self.dims],) if self.dims in planes else ()


PACKED = ("JUMP_DET", "SATURATED", "DO_NOT_USE")
"""Flags of resultants that `events` holds: ceil(R / 8) planes for each."""


VARIABLES: dict[str, Variable] = {
    "ramp": Variable("ryx", "float32", "DN", "signal of each resultant, raw until linearity"),
    "groupdq": Variable("ryx", "uint8", "", "flags of each resultant"),
    "pixeldq": Variable("yx", "uint32", "", "flags of each pixel before the ramp fit"),
    "dq": Variable("yx", "uint32", "", "flags of each pixel, resultant flags folded in"),
    "rate": Variable("yx", "float32", "DN/s", "slope of the ramp"),
    "err": Variable("yx", "float32", "DN/s", "total error of the rate"),
    "var_poisson": Variable("yx", "float32", "(DN/s)^2", "Poisson variance of the rate"),
    "var_rnoise": Variable("yx", "float32", "(DN/s)^2", "read-noise variance of the rate"),
    "chisq": Variable("yx", "float32", "", "chi-square of the ramp fit per degree of freedom"),
    "unused": Variable("ryx", "uint8", "", "1 where the likelihood fit has no next difference"),
    "noise_ratio": Variable("yx", "float32", "1/s", "Poisson to read noise of the fit's weights"),
    "events": Variable("byx", "uint8", "", "flags of resultants that large events change, as bits"),
    "dumo": Variable("yx", "float32", "DN/s", "uniform-weight slope minus the optimal one"),
    "endslice": Variable("yx", "int16", "", "last resultant before saturation, -1 if none"),
    "blank": Variable("yx", "uint8", "", "1 saturated throughout, 2 known as saturated, 3 both"),
    "blank_dq": Variable("yx", "uint32", "", "flags of each pixel if the whole frame saturates"),
    "mask": Variable("yx", "bool", "", "combined mask, True = not to be used"),
    "data": Variable("yx", "float32", "DN/s", "rate with the sky model subtracted"),
}
"""Every array that steps may read or write, registered once."""


class Params(BaseModel):
    """Base of a step's parameters: immutable, hashable, unknown options refused.

    A subclass has an annotated attribute with a default for each option of its step; recipes set
    them by name. The text below an attribute is its line in the manual, and says the unit.

    Raises
    ------
    pydantic.ValidationError
        For an option that there is not, or a value of another type. In a recipe or configuration
        it becomes an `InputError`.

    Examples
    --------
    >>> class NegativeParams(Params):
    ...     sigma: float = 5.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoParams(Params):
    """A step without parameters."""


@dataclass(frozen=True)
class Tile:
    """Where a kernel works: the window of the full frame that its arrays cover.

    Attributes
    ----------
    window : Window
        Rows and columns of the full frame, halo included.
    side : int
        Detector side N.
    """

    window: Window
    side: int

    @property
    def active(self) -> tuple[slice, slice]:
        """Slices of the tile's own arrays that hold active (non-reference) pixels."""
        return self.window.active(self.side).within(self.window)


def _little(exposure: Exposure, params: Any) -> float:
    return 0.0


def _itself(window: Window) -> Window:
    return window


@dataclass(frozen=True)
class Reduction:
    """How to measure a few numbers on the whole frame before a step works on tiles.

    Attributes
    ----------
    windows : callable
        ``windows(exposure, params)`` -> windows of the full frame to measure.
    partial : callable
        Keyword arguments: the `reads`, the references of `references`, and any of ``tile``,
        ``exposure``, ``params``. Returns something small.
    combine : callable
        ``combine(partials, exposure=, params=, **whole)`` -> mapping handed to the kernel as
        ``measured``. ``whole`` are references (and L1 strips) that are read whole.
    reads : tuple of str or callable
        Variables, with the values that they have when the step begins (or a function of the
        parameters that returns such a tuple).
    references, whole : mapping of str to str
        Keyword name -> reference array, cut to the window (or a function of the parameters that
        returns such a mapping) / read whole by `combine`.
    thin : bool
        The windows are thin strips, and the preceding steps are computed on these strips alone.
        Otherwise the reduction uses the finished tiles.
    holds : callable
        ``holds(exposure, params)`` -> bytes that `combine` needs, if that is more than a little.
    """

    windows: Callable[[Exposure, Any], list[Window]]
    partial: Callable[..., Any]
    combine: Callable[..., Mapping[str, Any]]
    reads: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    references: Mapping[str, str] | Callable[[Any], Mapping[str, str]] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    thin: bool = True
    holds: Callable[[Exposure, Any], float] = _little

    def reads_for(self, params: Any) -> tuple[str, ...]:
        """Variables of `partial` under `params`."""
        return self.reads(params) if callable(self.reads) else self.reads

    def references_for(self, params: Any) -> Mapping[str, str]:
        """Reference arrays of `partial` under `params`."""
        return self.references(params) if callable(self.references) else self.references


@dataclass(frozen=True)
class Spill:
    """A correction of every pixel that is worked out strip by strip before any tile is.

    A strip is whole columns. Strips are written to a store on disk and read tile by tile, so that
    the frame is never in memory. A step with a spill has a thin reduction.

    Attributes
    ----------
    name : str
        The kernel gets the correction (R, y, x) by this keyword.
    dtype : str
    strips : callable
        ``strips(exposure, params)`` -> windows of whole columns, all of one width, that cover the
        frame.
    make : callable
        Keyword arguments: the arrays of `references`, ``window`` (a strip), ``plane`` (index of the
        resultant) and any of ``measured``, ``exposure``, ``params``. Returns an array of the shape
        of the window.
    references : mapping of str to str
        Keyword of `make` -> reference array.
    part : callable
        ``part(window)`` -> the window of its reference arrays that a strip needs.
    only : tuple of str
        Entries of ``measured`` that `make` alone needs; they are gone when tiles are made.
    holds : callable
        ``holds(exposure, params)`` -> bytes that `make` needs, its references included.
    """

    name: str
    dtype: str
    strips: Callable[[Exposure, Any], list[Window]]
    make: Callable[..., np.ndarray]
    references: Mapping[str, str] = field(default_factory=dict)
    part: Callable[[Window], Window] = _itself
    only: tuple[str, ...] = ()
    holds: Callable[[Exposure, Any], float] = _little


_CONTEXT = ("tile", "exposure", "params", "measured")
PREPARED = "prepared"
"""Keyword by which a kernel gets what its step's `prepare` has made."""


def _no_halo(params: Any) -> int:
    return 0


def _suits(exposure: Exposure, params: Any) -> str:
    return ""


def always(exposure: Exposure, params: Any, available: Callable[[str], bool]) -> bool:
    """The condition of a step that applies to every exposure."""
    return True


@dataclass(frozen=True)
class Step:
    """Declaration of one calibration step.

    The kernel gets NumPy arrays of one tile with its halo, h rows by w columns: variables and
    reference arrays of dimensions ``yx`` are (h, w), those of ``ryx`` (R, h, w) with R resultants.
    Their types and units are in the manual's tables of variables and input arrays.

    Attributes
    ----------
    name : str
        As recipes, logs and the dashboard call it.
    kernel : callable
        Takes, by keyword, the variables of `reads`, the arrays of `references` and any of
        ``tile``, ``exposure``, ``params``, ``measured``; returns new arrays in the order of
        `writes` (a bare array if there is one). Must not change its inputs.
    reads, writes : tuple of str
        Names in `VARIABLES`.
    references : mapping or callable
        Keyword of the kernel -> "file.array" in `roman_dask_l2.io.references.ARRAYS`, or a
        function of the parameters that returns such a mapping.
    optional_reads : tuple of str
        Variables passed to the kernel, None where no earlier step of the recipe writes them.
    prepare : callable, optional
        What the kernel needs of its references alone, worked out once for all ramps that share
        them. Takes, by keyword, those of `references` that it names and any of ``tile``,
        ``params``; the kernel gets what it returns as ``prepared``, and those of `references` that
        it names itself. Neither may change what it gets.
    halo : callable
        ``halo(params)`` -> how many pixels beyond the tile the kernel reads.
    reference_halo : callable
        The same for its reference arrays alone.
    params : type
        Parameters, a subclass of `Params`.
    settings : mapping of str to str
        Parameter -> configuration key (dotted for nested keys) that sets it when the user gives it.
    reduction : Reduction, optional
        Numbers about the frame that the kernel needs first.
    spill : Spill, optional
        A correction that is worked out from these numbers for the whole frame, strip by strip.
    idle : callable, optional
        ``idle(measured)`` -> whether what the reduction found leaves all that the kernel writes as
        it is. Of a step that says so, the variables are stored before it is known, and written
        anew only where it is not so: they need not wait in memory for the last tile.
    when : callable
        ``when(exposure, params, available)`` -> whether the step applies; ``available(name)``
        tells whether a reference array exists.
    check : callable
        ``check(exposure, params)`` -> why the step cannot work on this exposure, empty if it can.
    sets : mapping of str to tuple of str
        Variable of `writes` -> flags that the kernel sets in it, names of `dq.GROUP` for
        ``groupdq`` and of `dq.PIXEL` for the others. Flags that it copies from the ``dq`` of a
        reference file do not count. The manual's tables of flags are made of this.
    cal_step : str
        Key of ``meta.cal_step`` that this step completes, if any.
    uniform_light : str
        Of a flat-field step, what light of uniform surface brightness looks like in the image:
        ``uniform``, or ``solid angle`` where it is proportional to that of the pixels.
    imports : tuple of str
        Modules of other packages that the kernel or the reduction gets from `foreign.load`; they
        are imported before the first task.

    Raises
    ------
    TypeError
        If the declaration mismatches the signature of a function that it names, or names a
        variable, flag or parameter that does not exist.
    """

    name: str
    kernel: Callable[..., Any]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    optional_reads: tuple[str, ...] = ()
    references: Mapping[str, str] | Callable[[Any], Mapping[str, str]] = field(default_factory=dict)
    prepare: Callable[..., Any] | None = None
    halo: Callable[[Any], int] = _no_halo
    reference_halo: Callable[[Any], int] = _no_halo
    params: type[Params] = NoParams
    settings: Mapping[str, str] = field(default_factory=dict)
    reduction: Reduction | None = None
    spill: Spill | None = None
    idle: Callable[[Mapping[str, Any]], bool] | None = None
    when: Callable[[Exposure, Any, Callable[[str], bool]], bool] = always
    check: Callable[[Exposure, Any], str] = _suits
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cal_step: str = ""
    uniform_light: str = ""
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [v for v in self._variables() if v not in VARIABLES]
        if unknown:
            raise TypeError(f"step {self.name}: unknown variables {unknown}")
        bad = [p for p in self.settings if p not in self.params.model_fields]
        if bad:
            raise TypeError(f"step {self.name}: settings for unknown parameters {bad}")
        known = {(v, f) for v in self.writes for f in (GROUP if v == "groupdq" else PIXEL)}
        declared = [(v, f) for v, flags in self.sets.items() for f in flags]
        impossible = [pair for pair in declared if pair not in known]
        if impossible:
            raise TypeError(f"step {self.name}: declares flags that it cannot set, {impossible}")
        references = self.references_for(self.params())
        inputs = [*self.reads, *self.optional_reads, *references]
        if self.prepare is not None:
            taken = [name for name in references if _takes(self.prepare, name)]
            _check_signature(f"step {self.name}: prepare", self.prepare, taken, _CONTEXT[::2])
            # A reference that neither takes is left, so that the kernel's check finds it.
            own = [n for n in references if n not in taken or _takes(self.kernel, n)]
            inputs = [*self.reads, *self.optional_reads, *own, PREPARED]
        if self.spill is not None:
            if self.reduction is None or not self.reduction.thin:
                raise TypeError(f"step {self.name}: a spill needs a thin reduction")
            inputs.append(self.spill.name)
            _check_signature(
                f"step {self.name}: make",
                self.spill.make,
                [*self.spill.references, "window", "plane"],
                _CONTEXT[1:],
            )
        _check_signature(f"step {self.name}: kernel", self.kernel, inputs)
        if self.reduction is not None:
            r = self.reduction
            _check_signature(
                f"step {self.name}: partial",
                r.partial,
                [*r.reads_for(self.params()), *r.references_for(self.params())],
                _CONTEXT[:3],
            )
            _check_signature(
                f"step {self.name}: combine", r.combine, ["partials", *r.whole], _CONTEXT[1:3]
            )

    def _variables(self) -> Sequence[str]:
        extra = self.reduction.reads_for(self.params()) if self.reduction else ()
        return (*self.reads, *self.optional_reads, *self.writes, *extra)

    def references_for(self, params: Params) -> Mapping[str, str]:
        """Reference arrays of the kernel under `params`: keyword -> "file.array"."""
        return self.references(params) if callable(self.references) else self.references

    def prepared_from(self, references: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the references of a tile that `prepare` takes."""
        return {} if self.prepare is None else accepted(self.prepare, references)

    def prepared(self, references: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
        """What `prepare` makes of the references of a tile; None without it."""
        if self.prepare is None:
            return None
        return self.prepare(**self.prepared_from(references), **accepted(self.prepare, context))

    def apply(
        self,
        reads: Mapping[str, Any],
        references: Mapping[str, Any],
        context: Mapping[str, Any],
        prepared: Any,
    ) -> tuple[Any, ...]:
        """Run the kernel on one ramp; what it writes, in the order of `writes`."""
        given = dict(references)
        if self.prepare is not None:
            given = accepted(self.kernel, references) | {PREPARED: prepared}
        result = self.kernel(**reads, **given, **accepted(self.kernel, context))
        return result if isinstance(result, tuple) else (result,)

    def run(self, inputs: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
        """Both functions one after the other on arrays by keyword; what the kernel returns."""
        names = {*self.reads, *self.optional_reads}
        reads = {name: value for name, value in inputs.items() if name in names}
        rest = {name: value for name, value in inputs.items() if name not in names}
        results = self.apply(reads, rest, context, self.prepared(rest, context))
        return results if len(self.writes) > 1 else results[0]


def _takes(func: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(func).parameters


def _check_signature(
    what: str, func: Callable[..., Any], inputs: Sequence[str], context: Sequence[str] = _CONTEXT
) -> None:
    """Raise `TypeError` unless a declaration matches its function."""
    parameters = inspect.signature(func).parameters
    # A parameter with a default may come from references that only some options require.
    required = {n for n, p in parameters.items() if p.default is p.empty}
    missing = required - set(inputs) - set(context)
    surplus = set(inputs) - set(parameters)
    if missing or surplus:
        raise TypeError(
            f"{what} {func.__name__} does not match its declaration: "
            f"takes undeclared {sorted(missing)}, lacks declared {sorted(surplus)}"
        )


@lru_cache(maxsize=1024)
def _parameters(func: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(func).parameters)


def accepted(func: Callable[..., Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `context` that `func` takes by name."""
    parameters = _parameters(func)
    return {k: v for k, v in context.items() if k in parameters}


@dataclass(frozen=True)
class BoundStep:
    """A step with the parameters that it will run with."""

    step: Step
    params: Params

    @property
    def name(self) -> str:
        return self.step.name
