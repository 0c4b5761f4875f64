"""stcal's fit alone, as the benchmark times it, fits the raw ramp."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
from programs import load

fitting = load("stcal_fit")


def test_median_of_the_rates(simulated, capsys):
    exposure = simulated(conditions=(), seed=77)
    fitting.main(str(exposure.config))
    said = capsys.readouterr().out
    number = float(said.split(": ")[1].split()[0])
    with asdf.open(exposure.l1) as file:
        data = np.array(file["roman"]["data"]).astype(float)
        pattern = file["roman"]["meta"]["exposure"]["read_pattern"]
    edges = np.ones(data.shape[1:], bool)
    edges[4:-4, 4:-4] = False
    seconds = (np.mean(pattern[-1]) - np.mean(pattern[1])) * 3.04
    change = data[-1] - data[1]
    expected = (np.median(change) - np.median(change[edges])) / seconds
    assert number == pytest.approx(expected, abs=0.1)
    assert said.startswith(f"median of {256 * 256} rates")


def test_no_exposure(tmp_path):
    with pytest.raises(FileNotFoundError):
        fitting.main(str(tmp_path / "config.yaml"))
