"""The FITS copy of an L2 image, for viewers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MASKED = -1000.0
"""Value of masked pixels in the third HDU."""


def fits_name(out: Path) -> Path:
    """``OUT`` with ``.asdf`` replaced by ``_asdf_to.fits``."""
    return out.with_name(out.name.removesuffix(".asdf") + "_asdf_to.fits")


def write_fits(path: Path, data: np.ndarray, dq: np.ndarray, mask: np.ndarray) -> None:
    """Write data, dq, and data blanked where masked, each as one HDU.

    Parameters
    ----------
    path : Path
    data : ndarray (y, x) of float32
        DN/s.
    dq : ndarray (y, x) of uint32
    mask : ndarray (y, x) of bool
        True = masked.
    """
    from astropy.io import fits

    units = ("DN/s", "", "DN/s")
    blanked = np.where(mask, np.float32(MASKED), data)
    hdus = [fits.PrimaryHDU(data), fits.ImageHDU(dq, name="DQ"), fits.ImageHDU(blanked)]
    hdus[2].name = "MASKED"
    for hdu, unit in zip(hdus, units, strict=True):
        if unit:
            hdu.header["BUNIT"] = unit
    fits.HDUList(hdus).writeto(path)
