"""Runs inside romancal's environment: its source catalogue of one Level-2 file, without a network.

``python romancal_catalogue.py L2 OUT`` writes columns of the catalogue to ``OUT`` (.npz). The
reference file that the step needs, aperture corrections, is made here by its schema: one of a
Gaussian image, as the simulation's stars are. Fits of a point-spread function need a grid of images
that CRDS alone has, so they are left out; that of the extinction is NaN without its maps.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from romancal_pipeline import without_network

COLUMNS = (
    "x_centroid", "y_centroid", "ra_centroid", "dec_centroid", "segment_flux", "aper08_flux",
    "aper08_flux_err", "warning_flags",
)  # fmt: skip
WIDTH = 1.0
"""Standard deviation of the Gaussian, pixels."""


def aperture_corrections(element: str, path: Path) -> Path:
    """A reference file of the type apcorr."""
    import roman_datamodels.datamodels as models

    fractions = np.array([0.3, 0.5, 0.7, 0.8, 0.9])
    model = models.ApcorrRefModel.create_fake_data()
    model["data"] = {
        element: {
            "ap_corrections": 1 / fractions,
            "ee_fractions": fractions,
            "ee_radii": WIDTH * np.sqrt(-2 * np.log(1 - fractions)),
            "sky_background_rin": 10.0,
            "sky_background_rout": 15.0,
        }
    }
    model.validate()
    model.save(path)
    return path


def main(image: str, out: str) -> None:
    folder = Path(out).resolve().parent
    without_network(folder)
    warnings.simplefilter("ignore")
    import roman_datamodels.datamodels as models
    from romancal.source_catalog import SourceCatalogStep

    with models.open(image) as model:
        element = str(model.meta.instrument.optical_element)
    apcorr = aperture_corrections(element, folder / "apcorr.asdf")
    catalogue, segments = SourceCatalogStep.call(
        image, override_apcorr=str(apcorr), fit_psf=False, save_results=False
    )
    table = catalogue.source_catalog
    kept = {name: np.asarray(table[name], float) for name in COLUMNS}
    np.savez(out, segments=int(np.max(segments.data)), **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
