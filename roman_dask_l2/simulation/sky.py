"""What shines on the simulated detector: sky, stars, cosmic rays."""

from __future__ import annotations

import numpy as np

from ..core.detector import BORDER
from .detector import Pixels
from .options import DITHER
from .settings import GAIN, RESET_LAG, Given, Run
from .wcs import Dither, dithered

# --- the scene ----------------------------------------------------------------------------------


def _add_star(image: np.ndarray, y: float, x: float, peak: float) -> None:
    """Add a Moffat profile at (y, x) of the full frame to an active image, as far as 1e-4 e/s."""
    y, x, n, radius = y - BORDER, x - BORDER, image.shape[0], int(1.3 * (peak * 1e4) ** (1 / 6))
    ys = np.arange(max(round(y) - radius, 0), min(round(y) + radius + 1, n))
    xs = np.arange(max(round(x) - radius, 0), min(round(x) + radius + 1, n))
    if not ys.size or not xs.size:
        return
    r2 = (ys[:, None] - y) ** 2 + (xs - x) ** 2
    image[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] += peak * (1 + r2 / 1.3**2) ** -3.0


def make_scene(
    run: Run, pixels: Pixels, stars: Given, dither: Dither = None
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Starlight on a perfect pixel, (n, n) float32 in e/s; the stars that were made to saturate."""
    exposure = (run.pattern[-1][-1] + RESET_LAG) * run.frame_time
    light = np.zeros_like(pixels.gain)
    given = (run.side // 64) ** 2 if stars is None else stars
    if isinstance(given, int):
        given = _random_stars(run, given, exposure, dither)
    for y, x, peak in given:
        _add_star(light, y, x, GAIN * peak)
    for y, x in run.at("off_range")[:-2]:  # the last two stay dark
        _add_star(light, y, x, GAIN * 6000 / exposure)
    if "saturation" not in run.places:
        return light, []
    limit = pixels.gain * pixels.to_linear(pixels.threshold) / pixels.response
    reads, r, table = run.pattern, len(run.pattern), []
    spots = [(y, x, i) for i, (y, x) in enumerate(run.places["saturation"].tolist())]
    spots += [(BORDER, run.side // 3, r // 2), (run.side - 5, run.side - 5, r // 3)]
    for y, x, i in spots:
        j, amid = i % r, (i // r) % 2 == 1 and len(reads[i % r]) > 1
        before = reads[j - 1][-1] if j else -RESET_LAG
        full_at = np.mean(reads[j]) if amid else 0.5 * (before + reads[j][0])
        rate = limit[y - BORDER, x - BORDER] / ((full_at + RESET_LAG) * run.frame_time)
        _add_star(light, y, x, rate / pixels.peak)
        table.append({"y": y, "x": x, "resultant": j, "amid": int(amid)})
    return light, table


def _random_stars(run: Run, number: int, exposure: float, dither: Dither) -> np.ndarray:
    """Table (k, 3): y, x, peak in DN_lin/s; from faint to 40 % of a full well.

    With a dither they are drawn on a larger field, on which every dither finds as many.
    """
    rng, more = run.rng("stars"), 0.0 if dither is None else run.side * DITHER
    number = round(number * (1 + 2 * more / run.side) ** 2)
    where = rng.uniform(BORDER - more, run.side - BORDER - 1 + more, (number, 2))
    where = dithered(run.side, dither, *where.T)
    return np.column_stack([where, 20_000 / exposure * 10 ** rng.uniform(-3, 0, number)])


def draw_cosmic_rays(run: Run, given: Given) -> np.ndarray:
    """Table (k, 4) int64: y, x, the frame whose read first shows it, electrons."""
    last, rng, hits = run.pattern[-1][-1], run.rng("cosmic rays"), []
    if given is None:  # 5 per second and cm^2, pixels of 10 micrometres
        given = int(rng.poisson(5e-6 * run.n**2 * last * run.frame_time))
    if not isinstance(given, int):
        return np.array(given, np.int64).reshape(-1, 4)
    for _ in range(given):
        (y, x), angle = rng.uniform(BORDER, run.side - BORDER - 1, 2), rng.uniform(0, 2 * np.pi)
        frame, charge = rng.integers(1, last + 1), 10 ** rng.uniform(2.0, 4.3)
        for step in range(min(rng.geometric(0.4), 12)):
            at = round(y + step * np.sin(angle)), round(x + step * np.cos(angle))
            if BORDER <= min(at) and max(at) < run.side - BORDER:
                hits.append((*at, frame, round(charge * rng.uniform(0.7, 1.3))))
    return np.array(hits, np.int64).reshape(-1, 4)
