"""Runs inside the environment of `ecosystem.py`: PyIMCOM's own reader on one exposure.

Only what it wants to know of a mosaic is put in its place, and the side of the detector, which it
takes for that of flight. Files, layers, mask and coordinates are found and read by its own code.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
from pyimcom.coadd import InImage
from pyimcom.config import Settings
from pyimcom.layer import Mask, get_all_data
from pyimcom.wcsutil import PyIMCOM_WCS


def main(folder: str, out: str, wanted: str) -> None:
    """Read the exposure that `wanted` (JSON) says.

    Parameters
    ----------
    folder, out : str
        Where the exposure is; what to write (npz).
    wanted : str
        ``filter``, ``obs``, ``sca``, ``side``, ``layers``, and ``x``, ``y`` of some pixels.
    """
    asked = json.loads(wanted)
    Settings.sca_nside = asked["side"]
    config = SimpleNamespace(
        inpath=folder,
        informat="L2_2506",
        extrainput=[None, *asked["layers"]],
        n_inframe=1 + len(asked["layers"]),
        inpsf_oversamp=8,
        inlayercache=None,
    )
    observations = {"filter": {asked["obs"]: Settings.RomanFilters.index(asked["filter"])}}
    place = asked["obs"], asked["sca"]
    image = InImage(SimpleNamespace(cfg=config, obsdata=observations), place)
    assert image.exists_, f"{image.infile} is not found"
    assert isinstance(image.inwcs, PyIMCOM_WCS)
    get_all_data(image)
    ra, dec = image.inwcs.all_pix2world(np.array(asked["x"]), np.array(asked["y"]), 0)
    good = Mask.load_mask_from_maskfile(config, observations, place)
    np.savez(out, layers=image.indata, good=good, ra=ra, dec=dec)


if __name__ == "__main__":
    main(*sys.argv[1:])
