"""The tasks of a calibration: all tiles, the sky, the mask, and what is copied.

Those of one exposure, or of several that share their references, in one graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dask.delayed import Delayed, delayed

from ..core.detector import Grid, Window
from ..core.median import median
from ..core.step import VARIABLES
from ..engine import graph, plan, tasks
from ..engine.progress import Stage
from ..engine.schedulers import in_flight
from ..errors import InputError
from ..io.blocks import Block
from ..io.fits import FitsCopy
from ..io.l2 import L2File
from ..io.references import Inputs, share_sources
from ..io.spill import TempStore
from ..steps.common import all_finite
from .job import Job, jump_flags
from .left_out import kept_bits


def l2_names(job: Job) -> dict[str, str]:
    """Additional arrays of the L2 file that the recipe requests, with the types in the file."""
    kinds = {name: VARIABLES[name].dtype for name in job.recipe.outputs}
    return {name: "float16" if kind == "float32" else kind for name, kind in kinds.items()}


def l2_file(job: Job, path: Path) -> L2File:
    """The L2 file of an exposure, created without pixels."""
    made = {w for b in job.steps for w in b.step.writes}
    exposure = job.exposure
    return L2File(
        path,
        exposure.side,
        exposure.n_resultants,
        made,
        l2_names(job),
        job.config.SLICEOUT,
        kept_bits(job),
        jump_flags(job.steps)[1] if job.config.JUMPOUT else None,
        job.recipe.border != "raw",
    )


def _border_taps(job: Job, file: L2File) -> list[plan.Tap]:
    """The mission's L2 files hold the reference pixels as they were read, uncorrected; those of
    romancal 1.1 have the left and right ones as all steps have left them, and flags of dq_init."""
    ramps = [b.name for b in job.steps if "ramp" in b.step.writes]
    if job.recipe.border == "raw":
        return [plan.Tap(ramps[0], "ramp", file.border())]
    flags = next(b.name for b in job.steps if "pixeldq" in b.step.writes)
    return [
        plan.Tap(ramps[0], "ramp", file.border(("top", "bottom"))),
        plan.Tap(ramps[-1], "ramp", file.border(("left", "right"))),
        plan.Tap(flags, "pixeldq", file.border_flags()),
    ]


@dataclass(frozen=True)
class Target:
    """An exposure and where its calibration goes.

    Attributes
    ----------
    job : Job
    file : L2File
        Created, without pixels.
    copy : FitsCopy, optional
    store : TempStore, optional
        Where steps put corrections that are too large for the memory.
    """

    job: Job
    file: L2File
    copy: FitsCopy | None = None
    store: TempStore | None = None

    def taps(self) -> list[plan.Tap]:
        """What the file keeps of variables as they are in between."""
        taps = _border_taps(self.job, self.file)
        if self.file.bits is not None:
            kept = self.file.bits.kept
            taps.append(plan.Tap(kept.step, kept.variable, self.file.bits))
        if self.file.jumps is not None:
            taps.append(plan.Tap(*jump_flags(self.job.steps), self.file.jumps))
        return taps


def alike(one: Job, other: Job) -> bool:
    """Whether two exposures can be calibrated together: by the same steps, with as many
    resultants. Each gets its own result, whatever their references are."""
    return (
        one.steps == other.steps
        and one.exposure.side == other.exposure.side
        and one.exposure.n_resultants == other.exposure.n_resultants
    )


def calibration_graph(
    targets: Sequence[Target], tile: tuple[int, int], per_step: bool = False
) -> tuple[list[dict[str, Any]], list[Stage]]:
    """All tasks of the calibration of exposures that are `alike`, and the tasks of each stage.
    Reads no pixels.

    Parameters
    ----------
    targets : sequence of Target
    tile : tuple of int
        Rows and columns.
    per_step : bool
        Of one exposure only.

    Returns
    -------
    tasks : list of dict
        Dask collections, for each exposure.
    stages : list of Stage
        ``tiles``, ``sky`` and ``mask``.
    """
    first = targets[0].job
    grid = Grid(first.exposure.side, tile)
    sinks = targets[0].file.sinks()
    if len(targets) > 1 and plan.stackable(first.steps, sinks):
        shared = share_sources([target.job.inputs for target in targets])
        ramps = [
            graph.Ramp(inputs, target.file.sinks(), (), target.taps(), target.store)
            for inputs, target in zip(shared, targets, strict=True)
        ]
        lazy = graph.build_stack(first.steps, ramps, grid, in_flight())
    else:
        lazy = [
            graph.build(
                target.job.steps,
                target.job.inputs,
                grid,
                (),
                per_step,
                sinks=target.file.sinks(),
                taps=target.taps(),
                in_flight=in_flight(),
                scratch=target.store,
            )
            for target in targets
        ]
    gains: list[tuple[Any, Delayed]] = []
    copying: dict[str, int] = {}
    found = []
    for target, made in zip(targets, lazy, strict=True):
        sources, blocks = target.job.inputs.sources, target.file.blocks
        gain = sources["gain.data"]
        if not any(known == gain for known, _ in gains):
            gains.append((gain, delayed(_median_gain)(target.job.inputs)))
        windows = [(grid.window(*p), blocks, target.copy) for p in np.ndindex(*grid.shape)]
        found.append(
            {
                "seconds": made.seconds,
                "measured": made.measured,
                "amp33": delayed(_put_amp33)(
                    sources["l1.amp33"], blocks["amp33"], made.measured.get("refpix_irrc", {})
                ),
                "medgain": next(median for known, median in gains if known == gain),
                "masked": tasks.fan("copy", _copy, windows, made.seconds, copying),
            }
        )
    first_work = {task: n for one in lazy for task, n in one.work[0].items()}
    later = {task: n for one in lazy for segment in one.work[1:] for task, n in segment.items()}
    aside = {task: n for one in lazy for task, n in one.aside.items()}
    stages = [
        Stage("tiles", first_work, "tiles"),
        Stage("sky", later, "parts"),
        Stage("mask", aside | copying, "parts"),
    ]
    return found, [stage for stage in stages if stage.tasks]


def _put_amp33(source: Any, block: Block, measured: Mapping[str, Any]) -> None:
    """Write the reference output: as the reference-pixel correction leaves it, if it says so, else
    as it was read."""
    changed = measured.get("amp33")
    block.put(source.read() if changed is None else changed, block.window)


def _copy(window: Window, blocks: Mapping[str, Block], copy: FitsCopy | None, ready: Any) -> int:
    """Count the masked pixels of a tile, and copy the tile to the FITS file if there is one."""
    mask = blocks["mask"].read(window)
    if copy is not None:
        copy.put(blocks["data"].read(window), blocks["dq"].read(window), mask, window)
    return int(mask.sum())


def _median_gain(inputs: Inputs) -> tuple[float, int]:
    """Median of the gain file, e/DN, and how many values are not finite."""
    source = inputs.sources["gain.data"]
    gain = source.read()
    left_out = 0 if all_finite(gain) else int(np.count_nonzero(~np.isfinite(gain)))
    if left_out == gain.size:
        raise InputError(f"CALDIR.gain: {source.array.path}: no finite gain in roman.data")
    if gain.dtype == np.float32:
        return median(gain, finite=True), left_out
    return float(np.median(gain[np.isfinite(gain)])), left_out
