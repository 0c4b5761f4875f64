"""One pixel: its ramp after each step, its flags and who set them, its fit, its neighbours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config.model import Config
from ..core.detector import BORDER, Window
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.step import VARIABLES, BoundStep, Tile
from ..engine import kernels, plan
from ..errors import InputError
from ..io.layout import read_layout
from ..products.job import Job, prepare
from ..products.provenance import recipe_parts
from ..steps.ramp_subsets import EXCLUDING

AROUND = 4
"""Pixels around the one that is asked for, for its picture."""
NEAR = 1
"""The same for its table."""
FLAGS = ("groupdq", "pixeldq", "dq", "mask")
STORED = ("data", "data_withsky", "err", "dq")


@dataclass(frozen=True)
class After:
    """What one step has done to the pixel.

    Attributes
    ----------
    step : str
    signal : ndarray (R,) or None
        The ramp, DN; None if the step has not changed it.
    values : dict of str to float
        Two-dimensional results that it has made or changed.
    flags : list of str
        Flags that it has set, in words.
    """

    step: str
    signal: np.ndarray | None
    values: dict[str, float]
    flags: list[str]


@dataclass
class Pixel:
    """Everything about one pixel.

    Attributes
    ----------
    x, y : int
        On the active array, from 0, as in the Level 2 file.
    exposure : Exposure
    source : str
        Level 1 file.
    steps : list of After
    segments : list of ndarray of int
        Resultants that the fit joins by one line; several where a jump was taken out of the ramp.
    fitted : ndarray (R,)
        The signal as it is fitted, DN.
    residuals : ndarray (R,)
        Signal minus fitted line, DN; NaN where a resultant is not used.
    fit : dict of str to float
        Rate, error and so on as the ramp fit gives them, before the flat.
    around : dict of str to ndarray (2 AROUND + 1, 2 AROUND + 1)
        ``rate`` (DN/s, after the last of `steps`), ``dq`` and ``mask``; NaN, 0 and True beyond the
        edge of the detector.
    stored : dict of str to float
        What is in the Level 2 file, if there is one.
    other_recipe : str
        Name of the recipe by which that file was made, if it was made in another way.
    """

    x: int
    y: int
    exposure: Exposure
    source: str
    steps: list[After]
    segments: list[np.ndarray]
    fitted: np.ndarray
    residuals: np.ndarray
    fit: dict[str, float]
    around: dict[str, np.ndarray]
    stored: dict[str, float] = field(default_factory=dict)
    other_recipe: str = ""

    @property
    def flags(self) -> list[str]:
        """Names of the pixel's flags after the last step."""
        return names_of(int(self.around["dq"][AROUND, AROUND]))

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"pixel x = {self.x}, y = {self.y} ({self.exposure.detector}, row {self.y + BORDER}, "
            f"column {self.x + BORDER} of the full frame) of {self.source}",
            "",
            *_ramps(self),
            *_flag_lines(self),
            *_fit_lines(self),
            *_near_lines(self),
            *_stored_lines(self),
        ]


def names_of(dq: int) -> list[str]:
    """Names of the flags in a value of ``dq``."""
    return [name for name, bit in PIXEL.items() if dq & bit]


def look_at_pixel(config: Config | Mapping[str, Any] | str | Path, x: int, y: int) -> Pixel:
    """Run the recipe on a pixel and its neighbours, and note what each step does.

    All steps are run up to the first that needs the whole image (the sky).

    Parameters
    ----------
    config : Config, mapping, str or Path
    x, y : int
        Column and row of the active array, from 0, as in the Level 2 file.

    Returns
    -------
    Pixel

    Raises
    ------
    InputError
        For a wrong configuration, or a pixel that is not there.
    """
    job = prepare(config)
    exposure = job.exposure
    most = exposure.side - 2 * BORDER - 1
    for name, value in (("X", x), ("Y", y)):
        if not 0 <= value <= most:
            raise InputError(f"{name} = {value}: no such pixel, expected 0 to {most}")
    steps = _local(job.steps)
    if not any(name.startswith("ramp_fit") for name in (b.name for b in steps)):
        raise InputError(f"recipe {job.recipe.name}: no ramp fit before the whole image is needed")
    place = Window(y + BORDER, y + BORDER + 1, x + BORDER, x + BORDER + 1)
    seen = place.grown(AROUND, exposure.side)
    wanted = {name for b in steps for name in b.step.writes}
    outer = seen.grown(plan.summed_halo(steps, wanted), exposure.side)
    at = tuple(part.start for part in place.within(outer))
    traced: list[After] = []
    before: dict[str, np.ndarray] = {}
    kept: dict[str, np.ndarray] = {}

    def note(step: str, variables: Mapping[str, np.ndarray]) -> None:
        now = {name: values[(..., *at)].copy() for name, values in variables.items()}
        traced.append(_after(step, before, now))
        before.clear()
        before.update(now)
        if step.startswith("ramp_fit"):
            kept.update(now)

    measured = kernels.measure(steps, job.inputs)
    have = kernels.run_steps(steps, {}, Tile(outer, exposure.side), job.inputs, measured, taps=note)
    segments = _segments(kept, exposure, _excludes(steps))
    fitted, residuals = _line(kept["ramp"], float(kept["rate"]), segments, exposure)
    fit: dict[str, float] = {}
    for name in ("rate", "err", "var_poisson", "chisq", "dumo"):
        if name in kept:
            fit[name] = float(kept[name])
    around = _around(have, seen, outer, (y, x), exposure.side)
    source = Path(str(job.config.IN)).name
    found = Pixel(x, y, exposure, source, traced, segments, fitted, residuals, fit, around)
    found.stored, found.other_recipe = _stored(job, y, x)
    return found


def _local(steps: Sequence[BoundStep]) -> list[BoundStep]:
    """The steps before the first that measures the finished image."""
    local: list[BoundStep] = []
    for bound in steps:
        reduction = bound.step.reduction
        if reduction is not None and not reduction.thin:
            break
        local.append(bound)
    return local


def _excludes(steps: Sequence[BoundStep]) -> bool:
    return any(getattr(b.params, "exclude", False) for b in steps)


def _after(step: str, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> After:
    changed = {
        name: value
        for name, value in now.items()
        if name not in before or not np.array_equal(before[name], value, equal_nan=True)
    }
    flags = []
    if "groupdq" in changed:
        old = before.get("groupdq", np.zeros_like(now["groupdq"]))
        new = now["groupdq"] & ~old
        for name, bit in GROUP.items():
            if (where := np.flatnonzero(new & bit)).size:
                flags.append(f"{name} in {resultants(where)}")
    for name in ("pixeldq", "dq"):
        if name in changed:
            known = int(before.get(name, 0)) | (
                int(before.get("pixeldq", 0)) if name == "dq" else 0
            )
            flags += [f"{flag} ({name})" for flag in names_of(int(now[name]) & ~known)]
    if "mask" in changed:
        flags.append("masked" if now["mask"] else "not masked")
    values = {
        name: float(value)
        for name, value in changed.items()
        if name not in FLAGS and VARIABLES[name].dims == "yx"
    }
    return After(step, changed.get("ramp"), values, flags)


def resultants(where: Sequence[int] | np.ndarray) -> str:
    """ "resultant 3", "resultants 2, 5-7"."""
    runs = np.split(np.asarray(where), np.flatnonzero(np.diff(where) != 1) + 1)
    texts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs if len(run)]
    plural = "s" if len(where) > 1 else ""
    return f"resultant{plural} {', '.join(texts)}"


def _segments(
    kept: Mapping[str, np.ndarray], exposure: Exposure, excludes: bool
) -> list[np.ndarray]:
    """Resultants that are joined by lines."""
    n = exposure.n_resultants
    if "unused" in kept:
        used = kept["unused"][: n - 1] == 0
        bounds = np.flatnonzero(np.diff(used.astype(np.int8), prepend=0, append=0))
        return [np.arange(i, j + 1) for i, j in bounds.reshape(-1, 2)]
    flags = kept["groupdq"]
    saturated = np.flatnonzero(flags & GROUP["SATURATED"])
    end = int(saturated[0]) if saturated.size else n
    used = np.arange(n) >= exposure.start
    used[end:] = False
    if excludes:
        used &= flags & EXCLUDING == 0
    return [np.flatnonzero(used)] if np.count_nonzero(used) > 1 else []


def _line(
    ramp: np.ndarray, rate: float, segments: Sequence[np.ndarray], exposure: Exposure
) -> tuple[np.ndarray, np.ndarray]:
    """Signal as fitted, and residuals: each segment has a pedestal of its own."""
    residuals = np.full(len(ramp), np.nan)
    for j in segments:
        rest = ramp[j].astype(float) - rate * exposure.tbar[j]
        residuals[j] = rest - np.average(rest, weights=exposure.n_reads[j])
    return ramp, residuals


def _around(
    have: Mapping[str, np.ndarray], seen: Window, outer: Window, at: tuple[int, int], side: int
) -> dict[str, np.ndarray]:
    """Images around the pixel."""
    size = 2 * AROUND + 1
    images = {
        "rate": np.full((size, size), np.nan),
        "dq": np.zeros((size, size), np.uint32),
        "mask": np.ones((size, size), bool),
    }
    active = seen.active(side)
    y0, x0 = active.y0 - BORDER - at[0] + AROUND, active.x0 - BORDER - at[1] + AROUND
    ny, nx = active.shape
    for name, image in images.items():
        if name in have:
            image[y0 : y0 + ny, x0 : x0 + nx] = have[name][active.within(outer)]
    return images


def _stored(job: Job, y: int, x: int) -> tuple[dict[str, float], str]:
    """Values of the Level 2 file, if it was made, and its recipe if that is another."""
    path = job.config.OUT
    if not os.path.exists(path):
        return {}, ""
    layout, place = read_layout(path), Window(y, y + 1, x, x + 1)
    found = {}
    for key in (*(("roman", name) for name in STORED), ("mask",)):
        array = layout.array(*key)
        if array is not None and x < array.shape[-1] and y < array.shape[-2]:
            found[key[-1]] = array.read(place)[0, 0].item()
    recipe = layout.value("processinfo", "provenance", "recipe", default={})
    same = recipe.get("steps") == recipe_parts(job.recipe)["steps"]
    return found, "" if same else str(recipe.get("name", "another program"))


# -- for people -----------------------------------------------------------------------------------


def _ramps(pixel: Pixel) -> list[str]:
    rows = [(a.step, a.signal) for a in pixel.steps if a.signal is not None]
    wide = max(len(name) for name, _ in rows)
    head = "".join(f"{j:>11}" for j in range(pixel.exposure.n_resultants))
    lines = ["signal (DN) after each step that changes it", f"{'resultant':<{wide}}{head}"]
    for name, signal in rows:
        lines.append(f"{name:<{wide}}" + "".join(f"{value:>11.2f}" for value in signal))
    return [*lines, ""]


def _flag_lines(pixel: Pixel) -> list[str]:
    lines = [f"  {a.step}: {', '.join(a.flags)}" for a in pixel.steps if a.flags]
    return ["flags, by the step that set them", *(lines or ["  none"]), ""]


def _fit_lines(pixel: Pixel) -> list[str]:
    fit, e = pixel.fit, pixel.exposure
    said = f"fit: {fit['rate']:.5g} +- {fit['err']:.3g} DN/s (before the flat)"
    if fit.get("chisq"):
        said += f", chi-square {fit['chisq']:.3g}"
    if len(pixel.segments) > 1:
        said += (
            f"; {len(pixel.segments) - 1} jump taken out"
            if len(pixel.segments) == 2
            else (f"; {len(pixel.segments) - 1} jumps taken out")
        )
    lines = [said, f"{'resultant':>9}{'time (s)':>10}{'reads':>7}{'signal':>11}{'residual':>10}"]
    for j in range(e.n_resultants):
        rest = pixel.residuals[j]
        shown = f"{rest:>10.2f}" if np.isfinite(rest) else f"{'not used':>10}"
        lines.append(
            f"{j:>9}{e.tbar[j]:>10.2f}{int(e.n_reads[j]):>7}{pixel.fitted[j]:>11.2f}{shown}"
        )
    return [*lines, ""]


def _near_lines(pixel: Pixel) -> list[str]:
    near = slice(AROUND - NEAR, AROUND + NEAR + 1)
    rate, dq, mask = (pixel.around[name][near, near] for name in ("rate", "dq", "mask"))
    last = pixel.steps[-1].step
    lines = [f"rate (DN/s) after {last}, with its neighbours; * masked"]
    for i in range(2 * NEAR, -1, -1):
        cells = [f"{rate[i, j]:>11.4g}{'*' if mask[i, j] else ' '}" for j in range(2 * NEAR + 1)]
        lines.append(f"  y = {pixel.y + i - NEAR:<5}" + "".join(cells))
    for i in range(2 * NEAR + 1):
        for j in range(2 * NEAR + 1):
            if names := names_of(int(dq[i, j])):
                y, x = pixel.y + i - NEAR, pixel.x + j - NEAR
                lines.append(f"  x = {x}, y = {y}: {', '.join(names)}")
    return lines


def _stored_lines(pixel: Pixel) -> list[str]:
    stored = dict(pixel.stored)
    if not stored:
        return []
    dq, masked = int(stored.pop("dq", 0)), stored.pop("mask", None)
    text = ", ".join(f"{name} {value:.5g}" for name, value in stored.items())
    flags = ", ".join(names_of(dq)) or "no flag"
    said = "" if masked is None else ", masked" if masked else ", not masked"
    made = f" (made by {pixel.other_recipe} or with other options)" if pixel.other_recipe else ""
    return ["", f"in the Level 2 file{made}: {text}; {flags}{said}"]


def draw_pixel(pixel: Pixel, path: Path) -> None:
    """Draw ramp, residuals and neighbours.

    Raises
    ------
    InputError
        If matplotlib is not installed or the picture cannot be written.
    """
    from .panels import save

    save(figure_of(pixel), path, 110)


def figure_of(pixel: Pixel) -> Any:
    """The picture of `draw_pixel`."""
    from .panels import figure_class

    figure = figure_class()(figsize=(13, 6), layout="constrained")
    spaces = figure.add_gridspec(2, 2, height_ratios=(2, 1), width_ratios=(1.4, 1))
    _draw_ramp(figure.add_subplot(spaces[0, 0]), figure.add_subplot(spaces[1, 0]), pixel)
    _draw_around(figure.add_subplot(spaces[:, 1]), pixel)
    flags = ", ".join(pixel.flags) or "no flag"
    figure.suptitle(f"{pixel.source}: x = {pixel.x}, y = {pixel.y}; {flags}", fontsize=11)
    return figure


def figures_of(pixel: Pixel) -> tuple[Any, Any]:
    """The same as two pictures that fit into a narrow page."""
    from .panels import figure_class

    ramp = figure_class()(figsize=(4.8, 4.6), layout="constrained")
    spaces = ramp.add_gridspec(2, 1, height_ratios=(2, 1))
    _draw_ramp(ramp.add_subplot(spaces[0]), ramp.add_subplot(spaces[1]), pixel)
    around = figure_class()(figsize=(4.8, 4.6), layout="constrained")
    _draw_around(around.add_subplot(), pixel)
    return ramp, around


def _draw_ramp(above: Any, below: Any, pixel: Pixel) -> None:
    """Signal with its fit, and below the residuals."""
    t, s, rate = pixel.exposure.tbar, pixel.fitted, pixel.fit["rate"]
    used = np.isfinite(pixel.residuals)
    above.plot(t[~used], s[~used], "o", mfc="white", mec="#777777", label="not used")
    above.plot(t[used], s[used], "o", color="#1F5FA8", label="used")
    for i, j in enumerate(pixel.segments):
        label = f"fit: {rate:.4g} DN/s" if i == 0 else None
        above.plot(t[j], s[j] - pixel.residuals[j], color="#B5382A", lw=1.5, label=label)
    above.sharex(below)
    above.tick_params(labelbottom=False)
    above.set_ylabel("linear signal (DN)")
    above.legend(fontsize=9)
    below.axhline(0, color="#B5382A", lw=1)
    below.plot(t[used], pixel.residuals[used], "o", color="#1F5FA8")
    below.set(xlabel="time since reset (s)", ylabel="residual (DN)")


def _draw_around(image: Any, pixel: Pixel) -> None:
    """The rate of the pixel and its neighbours."""
    from .panels import asinh_norm, colours

    rates = pixel.around["rate"]
    edge = AROUND + 0.5
    extent = (pixel.x - edge, pixel.x + edge, pixel.y - edge, pixel.y + edge)
    shown = image.imshow(
        rates, origin="lower", extent=extent, cmap=colours("viridis"), norm=asinh_norm(rates)
    )
    rows, columns = np.nonzero(pixel.around["mask"] & np.isfinite(rates))
    image.plot(columns + pixel.x - AROUND, rows + pixel.y - AROUND, "x", color="white", ms=7)
    image.plot([pixel.x], [pixel.y], "s", mfc="none", mec="#D9480F", ms=22, mew=2)
    image.set(xlabel="x (pixel)", ylabel="y (pixel)", title="rate; x: masked")
    image.figure.colorbar(shown, ax=image, label="DN/s")
