"""A step that takes its time, so that a run lasts long enough to be disturbed.

With HOLD_WRITING, the name of a file, the node n2 moreover stops while it writes a noise layer:
half of the first band is in the file then, and nothing more comes until HOLD_WRITING is gone. The
other node waits for that before it writes any: Dask may have sent all layers there, and then n2,
which has nothing to do, takes one over.
"""

import os
import time
from pathlib import Path

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.step import Step
from roman_dask_l2.io.blocks import Block


def take_time(rate):
    """`rate` as it is, after SLOW seconds for each tile, and not while the file HOLD is there."""
    time.sleep(float(os.environ.get("SLOW", 0)))
    while os.path.exists(os.environ.get("HOLD", "")):
        time.sleep(0.1)
    return rate.copy()


step = Step(name="slow", kernel=take_time, reads=("rate",), writes=("rate",))


def _hold_writing(hold: Path) -> None:
    put = Block.put

    def half(block, values, window):
        written = hold.with_name("written")
        noise = ".noise." in Path(block.path).name
        while noise and os.uname().nodename != "n2" and hold.exists() and not written.exists():
            time.sleep(0.1)
        # Once only: the node may be back before the end.
        if noise and hold.exists() and not written.exists():
            middle = (window.y0 + window.y1) // 2
            upper = Window(window.y0, middle, window.x0, window.x1)
            put(block, values[: middle - window.y0], upper)
            written.touch()
            while hold.exists():
                time.sleep(0.1)
        put(block, values, window)

    Block.put = half


if "HOLD_WRITING" in os.environ:
    _hold_writing(Path(os.environ["HOLD_WRITING"]))
