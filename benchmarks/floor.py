"""What the arithmetic and the bytes must cost at least: two small benchmarks.

    python benchmarks/floor.py config.yaml

Of a calibration and of a layer ``Rz4S2C1`` of read noise: one thread, processor time. Arithmetic:
the kernels on one tile in the middle of the frame, with references, ramp and the tables of the
draws in memory, times the number of tiles; nothing is read or written. Bytes: each byte that has to
be read or written once goes through a buffer of 1 MB from or to a file in memory (the page cache).
Prints a table; docs/speed.md says what the program takes beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "validation" / "parity")]

from package import say, table  # noqa: E402

from roman_dask_l2.core.detector import CHANNEL_WIDTH, Window  # noqa: E402
from roman_dask_l2.core.step import BoundStep, Tile  # noqa: E402
from roman_dask_l2.engine.kernels import measure, run_steps  # noqa: E402
from roman_dask_l2.engine.plan import make_segments  # noqa: E402
from roman_dask_l2.io.references import Inputs  # noqa: E402
from roman_dask_l2.noise.read_noise import PlaneNoise, common_series  # noqa: E402
from roman_dask_l2.noise.streams import Streams  # noqa: E402
from roman_dask_l2.products.base_ramp import reference_pixels, reset_noise  # noqa: E402
from roman_dask_l2.products.job import Job, prepare  # noqa: E402
from roman_dask_l2.products.layer_plan import quiet_steps  # noqa: E402

ROWS = 64
"""Of a tile."""
BUFFER = 1 << 20
REPEAT = 5


@dataclass
class Held:
    """A source that keeps what was read of it."""

    source: Any
    known: dict[Any, Any] = field(default_factory=dict)

    def read(self, *window: Any) -> Any:
        if window not in self.known:
            self.known[window] = self.source.read(*window)
        return self.known[window]


def cpu(work: Callable[[], Any]) -> float:
    """Least processor time of some calls, s, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEAT):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def kernels(steps: Sequence[BoundStep], job: Job) -> float:
    """The steps on the three-dimensional ramp of a frame, s."""
    side = job.exposure.side
    sources = {name: Held(source) for name, source in job.inputs.sources.items()}
    inputs = Inputs(job.exposure, sources, job.inputs.layouts)
    names = {w for b in steps for w in b.step.writes}
    first = make_segments(steps, sorted(names & {"rate", "dq", "data"}))[0]
    measured = measure(first.steps, inputs)
    core = Window(side // 2, side // 2 + ROWS, 0, side)
    tile = Tile(core.grown(first.halo, side), side)
    given: Mapping[str, np.ndarray] = {}
    return cpu(lambda: run_steps(first.steps, given, tile, inputs, measured)) * side / ROWS


def draws(job: Job) -> float:
    """The noise of a layer's ramp, s."""
    side, size = job.exposure.side, job.exposure.n_resultants
    streams = Streams(1, "Rz4S2C1", 0)
    common = common_series(streams, 1, side)
    arguments = (reference_pixels(job.inputs, 1, True), reset_noise(job.inputs))
    noise = PlaneNoise(*arguments, 1.0, 1.0, 2.0, common, streams, 1)
    width = 4 * CHANNEL_WIDTH
    base, read = np.full((side, width), 5000, np.uint16), np.full((side, width), 6.0, np.float32)
    strips = cpu(lambda: noise.add(base, read)) * side / width
    return size * (strips + cpu(lambda: common_series(streams, 1, side)))


def moved(size: float, folder: Path, write: bool) -> float:
    """Bytes written to a file in memory, or read from one, s."""
    buffer = memoryview(bytearray(BUFFER))
    path = folder / "bytes"
    count = max(round(size / BUFFER), 1)

    def writing() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for _ in range(count):
            os.write(fd, buffer)
        os.close(fd)

    def reading() -> None:
        fd = os.open(path, os.O_RDONLY)
        for i in range(count):
            os.preadv(fd, [buffer], i * BUFFER)
        os.close(fd)

    writing()
    return cpu(writing if write else reading)


def main(path: str) -> None:
    job = prepare(path)
    side, size = job.exposure.side, job.exposure.n_resultants
    frame = side**2
    files = {str(p) for p in (job.config.IN, *job.references.values())}
    inputs = float(sum(os.stat(file).st_size for file in files))
    cube, images = 2.0 * size * frame, (4 + 4 + 1) * frame
    with tempfile.TemporaryDirectory(dir=job.config.OUT.parent) as name:
        folder = Path(name)
        both, made = cube + images, 26.0 * frame
        rows = [
            ["calibration: kernels", 0, kernels(job.steps, job)],
            ["calibration: Level-1 and reference files", inputs, moved(inputs, folder, False)],
            ["calibration: arrays of the Level-2 file", made, moved(made, folder, True)],
            ["layer: kernels of the recipe", 0, kernels(quiet_steps(job.steps), job)],
            ["layer: draws and 1/f series, added to the ramp", 0, draws(job)],
            ["layer: cube and images to TEMP", both, moved(both, folder, True)],
            ["layer: cube and images from TEMP", both, moved(both, folder, False)],
            ["layer: its plane of the noise file", 4.0 * frame, moved(4.0 * frame, folder, True)],
        ]
    lines = [[what, f"{b / 1e9:.2f}" if b else "", f"{s:.2f}"] for what, b, s in rows]
    say(table(["what", "GB", "CPU s"], lines))
    for kind in ("calibration", "layer"):
        total = sum(seconds for what, _, seconds in rows if what.startswith(kind))
        say(f"{kind}: {total:.2f} CPU s")


if __name__ == "__main__":
    main(sys.argv[1])
