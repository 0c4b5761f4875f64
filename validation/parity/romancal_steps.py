"""Runs inside the environment of `ecosystem.py`: the mission's own steps on one Level-2 file.

Nothing is fetched: parameters and references that a server would give are not asked for.
"""

import json
import os
import sys
import warnings

os.environ["STPIPE_DISABLE_CRDS_STEPPARS"] = "true"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import roman_datamodels.datamodels as models  # noqa: E402
from romancal.flux import FluxStep  # noqa: E402
from romancal.skymatch import SkyMatchStep  # noqa: E402


def main(path: str, out: str) -> None:
    with models.open(path) as model:
        model.validate()
        found = {"model": type(model).__name__, "shape": list(model.data.shape)}
    flux = FluxStep.call(path)
    sky = SkyMatchStep.call([path], skymethod="local", skystat="median", nclip=0, subtract=False)
    with sky:
        image = sky.borrow(0)
        found["sky"] = {
            "step": str(image.meta.cal_step.skymatch),
            "level": float(image.meta.background.level),
        }
        sky.shelve(image, 0, modify=False)
    found["flux"] = {"step": str(flux.meta.cal_step.flux)}
    np.savez(out, flux=flux.data, flux_err=flux.err)
    with open(out + ".json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
