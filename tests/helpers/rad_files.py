"""Reference files by the observatory's schemas, of a small detector."""

from __future__ import annotations

from pathlib import Path

import asdf
import numpy as np
import roman_datamodels.datamodels as models
from astropy.modeling.models import Identity

TAGS = "asdf://stsci.edu/datamodels/roman/tags/reference_files/"
MODELS = {
    "mask": models.MaskRefModel,
    "saturation": models.SaturationRefModel,
    "refpix": models.RefpixRefModel,
    "linearity": models.LinearityRefModel,
    "inverselinearity": models.InverselinearityRefModel,
    "integralnonlinearity": models.IntegralnonlinearityRefModel,
    "readnoise": models.ReadnoiseRefModel,
    "gain": models.GainRefModel,
    "dark": models.DarkRefModel,
    "flat": models.FlatRefModel,
    "photom": models.WfiImgPhotomRefModel,
    "darkdecaysignal": models.DarkdecaysignalRefModel,
    "distortion": models.DistortionRefModel,
}
"""The observatory's name of a type -> its model."""


def arrays(kind: str, side: int, old: bool) -> dict[str, object]:
    """What a reference file of a type holds beside its metadata."""
    frame, active = (side, side), (side - 8, side - 8)
    channels, frequencies = side // 128, side * 140 // 2 + 1
    flags = np.zeros(frame, np.uint32)

    def full(value, shape=frame):
        return np.full(shape, value, np.float32)

    table = np.linspace(-1, 1, 65536)
    curve = np.ones(9, np.float32)
    conversion = {"photmjsr": 0.5, "uncertainty": 0.01, "pixelareasr": 2.8e-13}
    conversion |= {"collecting_area": 3.6, "wavelength": curve, "effective_area": curve}
    response = np.full((channels, frequencies), 0.5 + 0.25j)
    coeffs = np.stack([full(0), full(1), full(1e-7)])
    return {
        "mask": {"dq": flags},
        "saturation": {"data": full(50000), "dq": flags},
        "refpix": {"gamma": response, "zeta": response * 2, "alpha": response * 3},
        "linearity": {"coeffs": coeffs, "dq": flags},
        "inverselinearity": {"coeffs": coeffs, "dq": flags},
        "integralnonlinearity": {
            "value": np.arange(65536, dtype=np.uint16),
            "inl_table": {
                f"science_channel_{i:02d}": {"instrument_channel": i - 1, "correction": i * table}
                for i in range(1, channels + 1)
            },
        },
        "readnoise": {"data": full(6)},
        "gain": {"data": full(1.8)},
        "dark": {"dark_slope": full(0.01), "dark_slope_error": full(0.001), "dq": flags}
        | ({"data": full(0, (2, *frame))} if old else {}),
        "flat": {
            "data": full(1, active), "err": full(0.01, active), "dq": np.zeros(active, np.uint32)
        },
        "photom": {"phot_table": {"F158": conversion}},
        "darkdecaysignal": {
            "decay_table": {
                f"WFI{i:02d}": {"amplitude": 1.0 * i, "time_constant": 30.0} for i in range(1, 19)
            }
        },
        "distortion": {"coordinate_distortion_transform": Identity(2)},
    }[kind]  # fmt: skip


def write_rad(
    path: Path, kind: str, side: int, *, detector="WFI01", element="F158", tag: str | None = None
) -> Path:
    """Write a reference file with roman_datamodels; of the newest schema without a tag."""
    kwargs = {} if tag is None else {"tag": tag}
    old = tag is not None and tag.rpartition("-")[2] < "1.3.0"
    node = MODELS[kind]._node_type.create_fake_data(**kwargs)
    for name, value in arrays(kind, side, old).items():
        node[name] = value
    meta = node["meta"]
    meta["instrument"]["detector"] = detector
    if "optical_element" in meta["instrument"]:
        meta["instrument"]["optical_element"] = element
    asdf.AsdfFile({"roman": node}).write_to(path)
    return path


def versions(kind: str) -> list[str]:
    """The tags of a type that the installed roman_datamodels can write, the oldest first."""
    name = "wfi_img_photom" if kind == "photom" else kind
    known = {tag.tag_uri for e in asdf.get_config().extensions for tag in e.tags}
    return sorted(tag for tag in known if tag.startswith(f"{TAGS}{name}-"))
