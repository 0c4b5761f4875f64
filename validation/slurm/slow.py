"""A step that takes its time, so that a run lasts long enough to be disturbed."""

import os
import time

from roman_dask_l2.core.step import Step


def take_time(rate):
    """`rate` as it is, after SLOW seconds for each tile, and not while the file HOLD is there."""
    time.sleep(float(os.environ.get("SLOW", 0)))
    while os.path.exists(os.environ.get("HOLD", "")):
        time.sleep(0.1)
    return rate.copy()


step = Step(name="slow", kernel=take_time, reads=("rate",), writes=("rate",))
