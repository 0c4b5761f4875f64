"""Dark decay: the mean over reads of an exponential, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.pixel_times import pixel_times
from roman_dask_l2.steps.dark_decay import DarkDecayParams, step


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("border", [False, True])
def test_decay(border, double, exposure, run_step, window):
    n, t_f = exposure.side, exposure.frame_time
    times = pixel_times(exposure.detector_number, n, t_f, Window(0, n, 0, n))
    ramp = np.random.default_rng(4).uniform(3000, 60000, (6, n, n)).astype(np.float32)
    table = {exposure.detector: {"amplitude": 3.7, "time_constant": 11.0}}
    params = DarkDecayParams(border=border, double=double)
    inputs = {"ramp": ramp, "read_time": times, "table": table}
    result = run_step(step, exposure, window, inputs, params)["ramp"]
    expected = ramp.copy()
    act = np.s_[:, :] if border else np.s_[4:-4, 4:-4]
    for j, reads in enumerate(exposure.read_pattern):
        decay = np.mean([3.7 * np.exp(-(times + (r - 1.5) * t_f) / 11.0) for r in reads], axis=0)
        if double:
            expected[j][act] = (ramp[j].astype(float) - decay)[act]
        else:
            expected[j][act] -= decay.astype(np.float32)[act]
    # one sum is rounded another way than the other: a tie in a million
    difference = np.abs(result - expected[(..., *window.slices)])
    assert (difference <= np.spacing(result)).all()
    assert (difference > 0).mean() < 1e-4 or difference.size < 1000
    assert (result != ramp[(..., *window.slices)]).any() == bool(
        border or np.prod(window.active(n).shape)
    )
