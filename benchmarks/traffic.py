"""Bytes that a calibration reads and writes, by arithmetic from the arrays that its steps declare.

    python benchmarks/traffic.py      writes the table of docs/scaling.md

Nothing of 4096 x 4096 pixels is read: the arrays of a small exposure are taken for large ones.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import report  # noqa: E402
from package import ROOT, table  # noqa: E402

from roman_dask_l2.core.detector import BORDER, Grid, Window, parse_tile  # noqa: E402
from roman_dask_l2.engine import plan  # noqa: E402
from roman_dask_l2.io.arrays import _NARROW, PIECE_BYTES, Placed, pieces_kept  # noqa: E402
from roman_dask_l2.io.references import Inputs  # noqa: E402
from roman_dask_l2.products.calibration import l2_file  # noqa: E402
from roman_dask_l2.products.job import Job, prepare  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
SIDE = 4096


def enlarged(job: Job, side: int) -> Job:
    """A job as it would be for a larger detector; its files do not exist."""
    small = job.exposure.side
    sizes = {small: side, small - 2 * BORDER: side - 2 * BORDER}

    def larger(source: Any) -> Any:
        if not isinstance(source, Placed):
            return source
        shape = source.array.shape
        wanted = (*shape[:-2], *(sizes.get(n, n) for n in shape[-2:]))
        return replace(source, side=side, array=replace(source.array, shape=wanted))

    inputs = job.inputs
    sources = {name: larger(source) for name, source in inputs.sources.items()}
    exposure = replace(inputs.exposure, side=side)
    return replace(job, inputs=Inputs(exposure, sources, inputs.layouts))


def source_bytes(source: Any, window: Window | None = None) -> int:
    """Bytes that reading a window of an input array takes out of its file; 0 if it is packed."""
    if not isinstance(source, Placed) or len(source.array.shape) < 2 or source.array.in_pieces:
        return 0
    shape = source.array.shape
    planes = math.prod(shape[:-2])
    if source.planes is not None:
        planes = planes // shape[0] * source.planes
    rows, columns = shape[-2:]
    if window is not None and shape[-1] >= source.side - 2 * BORDER:
        place = window if shape[-1] == source.side else window.active(source.side)
        rows = place.shape[0]
        if place.shape[1] * _NARROW >= shape[-1]:  # else whole rows are read
            columns = place.shape[1]
    return planes * rows * columns * np.dtype(source.array.dtype).itemsize


def file_bytes(job: Job, name: str) -> float:
    """Bytes that an input array takes in its file; if it is packed, as well packed as it is in the
    file that is there."""
    array = job.inputs.sources[name].array
    nbytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    if not array.in_pieces:
        return nbytes
    layout = job.inputs.layouts[name.partition(".")[0]]
    starts = [*sorted(block.start for block in layout.blocks), layout.size_and_mtime[0]]
    i = starts.index(array.packed.start)
    there = layout.array(*array.key)
    assert there is not None
    unpacked = math.prod(there.shape) * np.dtype(there.dtype).itemsize
    return nbytes * (starts[i + 1] - starts[i]) / unpacked


def packed_bytes(job: Job, passes: int) -> float:
    """Bytes read of packed arrays: once if all their pieces can be kept, else as often as a whole
    frame is gone through."""
    total = 0.0
    for name in _arrays(job):
        array = job.inputs.sources[name].array
        if array.in_pieces:
            pieces = math.prod(array.shape) * np.dtype(array.dtype).itemsize / PIECE_BYTES
            total += file_bytes(job, name) * (passes if pieces > pieces_kept(array.shape) else 1)
    return total


def _arrays(job: Job) -> list[str]:
    """Names of the input arrays, each once."""
    return [
        name
        for name, source in job.inputs.sources.items()
        if isinstance(source, Placed) and "@" not in name
    ]


def traffic(job: Job) -> dict[str, int]:
    """Bytes of a calibration with the default tiles.

    Returns
    -------
    dict
        ``l1``, ``references`` and ``products`` read (the last are tiles that were written by an
        earlier stage), ``written``; and ``l1_file``, ``reference_files``, what lies in the files.
    """
    side, sources = job.exposure.side, job.inputs.sources
    grid = Grid(side, parse_tile(None, side))
    windows = [grid.window(iy, ix) for iy, ix in np.ndindex(*grid.shape)]
    read = dict.fromkeys(("l1", "references", "products"), 0)

    def inputs_read(names: Iterable[str], window: Window | None) -> None:
        for name in names:
            if name in sources:
                key = "l1" if name.startswith("l1.") else "references"
                read[key] += source_bytes(sources[name], window)

    with tempfile.TemporaryDirectory() as folder:
        file = l2_file(job, Path(folder) / "l2.asdf")  # a hole; nothing is written
        blocks = file.blocks
        sinks: Mapping[str, Any] = file.sinks()
        done: list[Any] = []
        strips = 0
        stored: set[str] = set()
        for segment in plan.make_segments(job.steps, sinks):
            for i, bound in enumerate(segment.steps):
                reduction = bound.step.reduction
                if reduction is None:
                    continue
                reads = reduction.reads_for(bound.params)
                before = plan.feeding([*done, *segment.steps[:i]], reads)
                for window in reduction.windows(job.exposure, bound.params):
                    if reduction.thin:
                        strips += 1
                        halo = plan.summed_halo(before, reads)
                        inputs_read(_references(before), window.grown(halo, side))
                    else:
                        read["products"] += _sink_bytes(reads, sinks, window)
                    inputs_read(reduction.references_for(bound.params).values(), window)
                inputs_read(reduction.whole.values(), None)
            names = _references(segment.steps)
            for window in windows if segment.leave else ():
                outer = window.grown(segment.halo, side)
                inputs_read(names, outer)
                read["products"] += _sink_bytes(stored & set(segment.enter), sinks, outer)
            done += segment.steps
            stored |= set(segment.leave) & set(sinks)
        inputs_read(["l1.amp33", "gain.data"], None)  # copied; for its median
        read["products"] += blocks["mask"].nbytes  # its pixels are counted
        written = sum(block.nbytes for block in blocks.values())
    read["l1"] += round(packed_bytes(job, strips + 1))
    in_files = {"l1_file": 0.0, "reference_files": 0.0}
    for name in _arrays(job):
        key = "l1_file" if name.startswith("l1.") else "reference_files"
        in_files[key] += file_bytes(job, name)
    return {**read, "written": written, **{key: round(size) for key, size in in_files.items()}}


def _references(steps: Sequence[Any]) -> set[str]:
    """Each is read once for a tile, however many steps want it."""
    return {name for b in steps for name in b.step.references_for(b.params).values()}


def _sink_bytes(names: Iterable[str], sinks: Mapping[str, Any], window: Window) -> int:
    total = 0
    for name in names:
        for block in getattr(sinks[name], "blocks", (sinks[name],)):
            both = block.window.intersection(window)
            if both is not None:
                planes = block.planes or 1
                total += planes * math.prod(both.shape) * np.dtype(block.dtype).itemsize
    return total


def page(config: Path) -> str:
    """The table of the manual from a small exposure, Markdown."""
    found = traffic(enlarged(prepare(config), SIDE))
    giga = {key: f"{value / 1e9:.2f}" for key, value in found.items()}
    lines = [
        ["Level-1 file", giga["l1_file"], giga["l1"], ""],
        ["reference files of its detector", giga["reference_files"], giga["references"], ""],
        ["Level-2 file", giga["written"], giga["products"], giga["written"]],
    ]
    distinct = (found["l1_file"] + found["written"]) / 1e9
    return report.joined([
        table(["", "GB in the file", "GB read", "GB written"], lines),
        "Where more is read than a file holds, tiles overlap by their halo, and the reference"
        " pixels are looked at, on the left and on the right, before the tiles: the second time it"
        " comes out of the page cache. With the reference files in there as well, the file system"
        f" sees {distinct:.2f} GB for each image. If a job makes an image in $t$ seconds, $n$ jobs"
        f" need {distinct:.2f} $n / t$ GB/s, more than half of it writing.",
    ])  # fmt: skip


if __name__ == "__main__":
    report.put_into_page("traffic", page(exposures.exposure(256)), PAGE)
