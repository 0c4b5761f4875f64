"""Configurations of simulated exposures whose outputs go elsewhere."""

from __future__ import annotations

import yaml


def elsewhere(simulation, folder, layers=(), **changes):
    """Write ``folder/config.yaml``, which reads a simulated exposure and writes into `folder`.

    Parameters
    ----------
    simulation : Simulation
    folder : Path
        Made if it is not there. Outputs are ``l2.asdf`` and ``noise.asdf``.
    layers : sequence of str
        Labels of noise layers; their TEMP is ``folder/temp``. Empty: no NOISE block.
    **changes
        Other keys of the configuration; None removes one.

    Returns
    -------
    Path
    """
    raw, base = yaml.safe_load(simulation.config.read_text()), simulation.config.parent
    raw |= {key: str(base / raw[key]) for key in ("IN", "FITSWCS", "GWCS") if key in raw}
    raw["CALDIR"] = {key: str(base / path) for key, path in raw["CALDIR"].items()}
    raw["OUT"] = str(folder / "l2.asdf")
    temp, out = folder / "temp", folder / "noise.asdf"
    (temp if layers else folder).mkdir(parents=True, exist_ok=True)
    noise = {"LAYER": list(layers), "TEMP": str(temp), "SEED": 15000, "OUT": str(out)}
    raw["NOISE"] = noise if layers else None
    path = folder / "config.yaml"
    settings = {key: value for key, value in (raw | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(settings))
    return path
