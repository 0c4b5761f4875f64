"""Runs inside the environment of `ecosystem.py`: the mission's own steps on one Level-2 file.

Nothing is fetched: parameters and references that a server would give are not asked for.
"""

import json
import os
import sys
import warnings
from typing import Any

os.environ["STPIPE_DISABLE_CRDS_STEPPARS"] = "true"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import roman_datamodels.datamodels as models  # noqa: E402
from romancal.flux import FluxStep  # noqa: E402
from romancal.resample import ResampleStep  # noqa: E402
from romancal.skymatch import SkyMatchStep  # noqa: E402

HALF = 4
"""Pixels on each side of the middle of a star that its place and sum are taken from."""
STARS = 20


def stars(data: np.ndarray, bad: np.ndarray) -> list[tuple[int, int]]:
    """Places (y, x) of bright stars with good pixels all around, none near another."""
    reach = 3 * HALF
    free = np.where(np.isfinite(data) & ~bad, data, -np.inf)
    blocked = np.zeros(data.shape, bool)
    found: list[tuple[int, int]] = []
    for place in np.argsort(free, axis=None)[::-1][:20000]:
        y, x = (int(v) for v in np.unravel_index(place, data.shape))
        inside = min(y, x) >= reach and max(y, x) < data.shape[0] - reach
        if inside and not blocked[y, x]:
            box = (slice(y - HALF, y + HALF + 1), slice(x - HALF, x + HALF + 1))
            if not bad[box].any():
                found.append((y, x))
            blocked[y - reach : y + reach + 1, x - reach : x + reach + 1] = True
        if len(found) == STARS:
            break
    return found


def measured(data: np.ndarray, y: float, x: float) -> tuple[float, float, float]:
    """Sum above the surroundings in a box around a place, and its centre (x, y)."""
    iy, ix = int(np.rint(y)), int(np.rint(x))
    box = data[iy - HALF : iy + HALF + 1, ix - HALF : ix + HALF + 1].astype(float)
    edge = np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]])
    box = box - np.median(edge)
    rows, columns = np.mgrid[iy - HALF : iy + HALF + 1, ix - HALF : ix + HALF + 1]
    total = box.sum()
    return total, (box * columns).sum() / total, (box * rows).sum() / total


def area(wcs: Any, x: float, y: float) -> float:
    """Solid angle of a pixel, in any unit."""
    ra, dec = wcs(np.array([x, x + 1, x]), np.array([y, y, y + 1]))
    east = (ra[1:] - ra[0] + 180) % 360 - 180
    east, north = east * np.cos(np.radians(dec[0])), dec[1:] - dec[0]
    return float(abs(east[0] * north[1] - east[1] * north[0]))


def resampled(flux: "models.ImageModel") -> dict[str, object]:
    """A mosaic of one image: where its stars are, and how bright, beside the image's own."""
    data, bad = np.array(flux.data), (np.array(flux.dq) & 1) != 0
    here = [measured(data, y, x) for y, x in stars(data, bad)]
    wcs = flux.meta.wcs
    # By default pixels weigh less the brighter they are, which takes light from stars.
    mosaic = ResampleStep.call(flux, weight_type="exptime")
    other = np.array(mosaic.data)
    offsets, ratios = [], []
    for total, x, y in here:
        sky = wcs(x, y)
        mx, my = mosaic.meta.wcs.invert(*sky)
        found, fx, fy = measured(other, my, mx)
        offsets.append(float(np.hypot(fx - mx, fy - my)))
        # Sums of surface brightness: the mosaic's pixels have another size.
        ratios.append(found / total * area(mosaic.meta.wcs, mx, my) / area(wcs, x, y))
    return {
        "model": type(mosaic).__name__,
        "step": str(mosaic.meta.cal_step.resample),
        "stars": len(here),
        "offset": float(np.median(offsets)),
        "ratio": float(np.median(ratios)),
    }


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
    found["resample"] = resampled(flux)
    with open(out + ".json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
