"""stcal's public likelihood fit alone, one process, on the exposure of a configuration.

    python benchmarks/stcal_fit.py config.yaml

Runs in the package's environment. Reads the Level-1 ramp with gain, read noise and saturation,
flags saturated resultants, takes the medians of reference pixels off channels and rows, so that
nearly all ramps are straight, and fits. No other calibration; nothing is written.
"""

import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import asdf  # noqa: E402
import numpy as np  # noqa: E402
import yaml  # noqa: E402
from stcal.ramp_fitting.ramp_fit import ramp_fit_data  # noqa: E402
from stcal.ramp_fitting.ramp_fit_class import RampData  # noqa: E402

FLAGS = {
    "DO_NOT_USE": 1, "SATURATED": 2, "JUMP_DET": 4, "NO_GAIN_VALUE": 1 << 19,
    "UNRELIABLE_SLOPE": 1 << 24, "PERSISTENCE": 1 << 5, "CHARGELOSS": 0,
}  # fmt: skip


def main(path: str) -> None:
    config = yaml.safe_load(Path(path).read_text())
    folder = Path(path).resolve().parent

    def read(place: str, *keys: str) -> list[np.ndarray]:
        with asdf.open(folder / place, memmap=False, lazy_load=False) as file:
            return [np.array(file["roman"][key]) for key in keys]

    with asdf.open(folder / config["IN"], memmap=False, lazy_load=False) as file:
        data = np.array(file["roman"]["data"]).astype(np.float32)
        about = file["roman"]["meta"]["exposure"]
        frame_time = about["frame_time"]
        seconds = [[frame_time * n for n in reads] for reads in about["read_pattern"]]
    (gain,), (noise,), (full,) = (
        read(config["CALDIR"][key], "data") for key in ("gain", "read", "saturation")
    )
    flags = np.zeros(data.shape, np.uint8)
    for j in range(1, len(data)):
        flags[j] = np.maximum(flags[j - 1] & 2, 2 * (data[j] >= full))
    flags[0] |= 1
    for x in range(0, data.shape[2], 128):
        channel = data[:, :, x : x + 128]
        edge = np.concatenate([channel[:, :4], channel[:, -4:]], axis=1)
        channel -= np.median(edge, axis=(1, 2), keepdims=True)
    edge = np.concatenate([data[:, :, :4], data[:, :, -4:]], axis=2)
    data -= np.median(edge, axis=2, keepdims=True)
    ramp = RampData()
    shape = data.shape[1:]
    ramp.set_arrays(
        data[None], flags[None], np.zeros(shape, np.uint32), np.zeros(shape, np.float32)
    )
    ramp.set_meta("WFI", frame_time, frame_time, 0, 1, 0)
    ramp.set_dqflags(FLAGS)
    ramp.algorithm, ramp.read_pattern = "LIKELY", seconds
    ramp.start_row, ramp.num_rows = 0, shape[0]
    image, _, _ = ramp_fit_data(ramp, False, noise, gain, "LIKELY", "optimal", "none")
    rate = image["slope"]
    print(f"median of {rate.size} rates: {np.nanmedian(rate):.4f} DN/s")


if __name__ == "__main__":
    main(sys.argv[1])
