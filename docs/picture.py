"""Make a small copy of the demo's picture for the README: ``python picture.py IN.png OUT.png``."""

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1100


def shrink(source: Path, target: Path) -> None:
    """Write `source`, `WIDTH` pixels wide and with 256 colours, to `target`."""
    with Image.open(source) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.BOX)
    # Maximum coverage keeps rare colours, such as those of flags, which the median cut loses.
    small = small.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    target.parent.mkdir(parents=True, exist_ok=True)
    small.save(target, optimize=True)


if __name__ == "__main__":
    shrink(Path(sys.argv[1]), Path(sys.argv[2]))
