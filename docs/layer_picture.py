"""Draw a noise layer beside its exposure: ``python layer_picture.py FOLDER OUT.png``.

FOLDER is where ``l2.asdf`` and ``noise.asdf`` are, whose first layer is drawn.
"""

import sys
from pathlib import Path

import asdf
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

PART = 80
"""Pixels along the side of the part that is shown."""


def draw(folder: Path, target: Path) -> None:
    """Draw a part of the rate and of the layer, and the layer's distribution over its error."""
    with (
        asdf.open(folder / "l2.asdf", memmap=False, lazy_load=False) as file,
        asdf.open(folder / "noise.asdf", memmap=False, lazy_load=False) as noise,
    ):
        roman = file["roman"]
        rate, err = np.array(roman["data"]), np.array(roman["err"], float)
        variance, mask = np.array(roman["var_poisson"], float), np.array(file["mask"])
        layer, label = np.array(noise["noise"][0]), noise["statistics"][0]["label"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    part = np.s_[:PART, :PART]
    middle = float(np.nanmedian(rate))
    for ax, image, title in ((axes[0], rate - middle, "rate - median"), (axes[1], layer, label)):
        shown = ax.imshow(image[part], origin="lower", vmin=-0.25, vmax=0.25, cmap="gray")
        ax.set_title(title)
    figure.colorbar(shown, ax=axes[:2], label="DN/s", shrink=0.85)
    use = ~mask & np.isfinite(rate)
    pull = (layer / np.sqrt(err**2 - variance))[use]
    bins = np.linspace(-6, 6, 61)
    x = (bins[1:] + bins[:-1]) / 2
    axes[2].stairs(np.histogram(pull, bins)[0] / pull.size / np.diff(bins), bins, label=label)
    axes[2].plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k--", lw=1, label="normal")
    axes[2].set(yscale="log", ylim=(1e-5, 1), xlabel="layer / read noise in err", ylabel="density")
    axes[2].legend(frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=90, metadata={"Software": None})
    with Image.open(target) as picture:
        few = picture.convert("RGB").quantize(64)
    few.save(target, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
