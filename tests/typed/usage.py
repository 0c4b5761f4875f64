"""The public names in somebody else's program; mypy checks it as strictly as it can."""

from __future__ import annotations

from pathlib import Path

import roman_dask_l2
from roman_dask_l2.config.model import Config, load_config
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.dataset import open_l2
from roman_dask_l2.products.level2 import calibrate, l1_to_l2
from roman_dask_l2.products.noise_layers import generate_noise


def run(config: Path) -> tuple[float, list[str]]:
    loaded: Config = load_config(config)
    made = calibrate(loaded, threads=2, tile="128x4096", show_progress=True)
    seconds: float = sum(made.seconds.values())
    out: Path = made.out
    image = open_l2(out, chunks={"y": 512})
    level = float(image["data"].mean())
    return seconds + level, list(image.attrs)


def layers(config: dict[str, object]) -> list[str]:
    try:
        made = generate_noise(config, memory="2GB", keep_temp=False)
    except InputError as error:
        return error.problems
    return [str(layer["label"]) for layer in made.layers]


def lazy(config: str) -> dict[str, str]:
    version: str = roman_dask_l2.__version__
    return {name: f"{version}: {array.dtype}" for name, array in l1_to_l2(config).items()}
