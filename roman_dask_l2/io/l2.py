"""The Level 2 file: a valid roman_datamodels ``ImageModel``, the pipeline's extras beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH, Window
from ..core.exposure import index_dtype
from ..errors import InputError
from ..system.foreign import load_asdf
from ..system.workarounds import model_tree
from .asdf_file import open_asdf
from .blocks import Block, Together
from .inplace import InPlaceFile
from .jumps import JumpBits
from .kept_bits import Kept, KeptBits
from .l2_arrays import IMAGE_ARRAYS, L2_ARRAYS, stored_images

log = logging.getLogger(__name__)

CAL_STEPS = (
    "assign_wcs",
    "dark",
    "dark_decay",
    "dq_init",
    "flat_field",
    "flux",
    "linearity",
    "outlier_detection",
    "photom",
    "ramp_fit",
    "refpix",
    "saturation",
    "skymatch",
    "source_catalog",
    "tweakreg",
    "wfi18_transient",
)
"""Keys of ``meta.cal_step``."""

EDGES = ("left", "right", "top", "bottom")
"""Sides of the reference border; left = first 4 columns, bottom = first 4 rows."""

NOT_OF_L1 = {"background", "cal_logs", "outlier_detection", "source_catalog", "statistics"}
"""Entries of ``meta`` that describe an image; a Level 1 file has none, or of another one."""


def edges(side: int, swapped: bool = False) -> dict[str, Window]:
    """The reference border, edge by edge; `swapped`: with the first rows as top."""
    first, last = Window(0, BORDER, 0, side), Window(side - BORDER, side, 0, side)
    return {
        "left": Window(0, side, 0, BORDER),
        "right": Window(0, side, side - BORDER, side),
        "top": first if swapped else last,
        "bottom": last if swapped else first,
    }


class L2File:
    """An L2 file in the making: its images have their place, tasks fill them in.

    Parameters
    ----------
    path : Path
        A temporary name (the caller renames it).
    side : int
        Detector side N.
    n_resultants : int
    made : iterable of str
        Variables that the recipe makes.
    outputs : mapping of str to str
        Further arrays of ``roman``, name -> dtype.
    with_fit : bool
        Keep in ``processinfo`` how each pixel was fitted: `endslice`, and what else the recipe
        makes.
    bits : Kept, optional
        What fits leave out; kept under the same condition.
    jumps : str, optional
        Keep where jumps were found: the variable that tells, ``groupdq`` or ``events``.
    swapped : bool
        Call the last rows of the border bottom, and the first ones top, as romancal 1.1 does.
    """

    def __init__(
        self,
        path: Path,
        side: int,
        n_resultants: int,
        made: Iterable[str],
        outputs: Mapping[str, str],
        with_fit: bool,
        bits: Kept | None = None,
        jumps: str | None = None,
        swapped: bool = False,
    ) -> None:
        self._file = InPlaceFile(path)
        active = Window(BORDER, side - BORDER, BORDER, side - BORDER)
        made = set(made)
        wanted = {**IMAGE_ARRAYS, **outputs}
        self._images = stored_images(made) | {name: name for name in outputs if name in made}
        self.blocks: dict[str, Block] = {
            name: self._file.add(name, wanted[name], active) for name in self._images
        }
        self._borders: list[str] = []
        self._swapped = swapped
        for edge, window in edges(side, swapped).items():
            for name, dtype, planes in (
                (f"border_ref_pix_{edge}", "float32", n_resultants),
                (f"dq_border_ref_pix_{edge}", "uint32", None),
            ):
                self.blocks[name] = self._file.add(name, dtype, window, planes)
                self._borders.append(name)
        amp33 = Window(0, side, 0, CHANNEL_WIDTH)
        self.blocks["amp33"] = self._file.add("amp33", "uint16", amp33, n_resultants)
        self.blocks["mask"] = self._file.add("mask", "bool", active)
        # What a recipe has among its outputs may have a place in `roman` as well.
        self._beside: dict[str, str] = {}
        kinds = {"endslice": index_dtype(n_resultants)}
        if "noise_ratio" in made:
            kinds["noise_ratio"] = L2_ARRAYS["noise_ratio"].dtype
        for name, kind in kinds.items() if with_fit else ():
            self._beside[name] = ".".join(L2_ARRAYS[name].key)
            self.blocks[self._beside[name]] = self._file.add(self._beside[name], kind, active)
        self.zeros = self._file.add("dq2", "uint32", active)
        """Never written: a hole in the file."""
        self.bits: KeptBits | None = None
        """What is left out of fits; not kept in the file if nothing is."""
        if with_fit and bits is not None:
            self.bits = KeptBits(self._file.add(bits.name, "uint8", active, bits.planes), bits)
        self.jumps: JumpBits | None = None
        """Where jumps were found. The last block: the list takes its place."""
        if jumps is not None:
            flagged = self._file.add("jumps", "uint8", active, -(-n_resultants // 8))
            self.jumps = JumpBits(flagged, jumps == "events")
        self._file.create()

    def sinks(self) -> dict[str, Block | Together]:
        """Variable of the pipeline -> where it belongs."""
        places: dict[str, list[Block]] = {}
        stored = [(variable, name) for name, variable in self._images.items()]
        for variable, place in (*stored, *self._beside.items()):
            places.setdefault(variable, []).append(self.blocks[place])
        places["mask"] = [self.blocks["mask"]]
        found: dict[str, Block | Together] = {
            variable: Together(tuple(blocks)) if blocks[1:] else blocks[0]
            for variable, blocks in places.items()
        }
        if not self._swapped:
            found["dq"] = Together((self.blocks["dq"], *self.border_flags().blocks))
        return found

    def border_flags(self) -> Together:
        """Where the flags of reference pixels belong; with `swapped` they are no part of `sinks`,
        since they are not those at the end."""
        return Together(tuple(self.blocks[f"dq_border_ref_pix_{edge}"] for edge in EDGES))

    def border(self, edges: Iterable[str] = EDGES) -> Together:
        """Where the reference pixels of all resultants belong."""
        return Together(tuple(self.blocks[f"border_ref_pix_{edge}"] for edge in edges))

    def finish(self, model: Any, processinfo: dict[str, Any]) -> None:
        """Write the tree.

        Parameters
        ----------
        model : roman_datamodels.datamodels.ImageModel
            From `image_model`.
        processinfo : dict
        """
        roman, node = model_tree(model), self._file.node
        jumps = None
        if self.jumps is not None:
            jumps = self.jumps.indices()
            self._file.drop_last()
        if "dq2" in roman:  # required from roman_datamodels 1.2 on; no reference file has one yet
            roman["dq2"] = node("dq2")
        for name in (*self._images, *self._borders, "amp33"):
            roman[name] = node(name)
        info = dict(processinfo)
        info |= {name: node(place) for name, place in self._beside.items()}
        if self.bits is not None:
            if self.bits.empty():
                self._file.drop_last()
            else:
                info[self.bits.kept.name] = node(self.bits.kept.name)
        if jumps is not None:
            roman["jump_indices"] = self._list(jumps)
        with _quiet():
            self._file.finish({"roman": roman, "mask": node("mask"), "processinfo": info})

    def _list(self, rows: np.ndarray) -> Any:
        """What stands in the tree for a list; it is the last block of the file."""
        if not len(rows):
            return rows
        window = Window(0, len(rows), 0, rows.shape[1])
        self._file.add("jump_indices", rows.dtype.name, window).put(rows, window)
        return self._file.node("jump_indices")


@contextmanager
def _quiet() -> Iterator[None]:
    """gwcs and astropy announce the retirement of things that the models themselves still use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def image_model(
    l1: Path, name: str, wcs: Any, photometry: Mapping[str, Any], steps: Mapping[str, str]
) -> Any:
    """An ``ImageModel`` with the L1 file's metadata and what this program knows, without arrays.

    Parameters
    ----------
    l1 : Path
    name : str
        Final file name, which goes into the metadata.
    wcs : gwcs.WCS
    photometry : mapping
    steps : mapping of str to str
        Keys of ``meta.cal_step`` -> COMPLETE or SKIPPED; all others are INCOMPLETE.

    Raises
    ------
    InputError
        If the metadata are not those of a Level 1 file.
    """
    load_asdf()  # also roman_datamodels, quickly
    import roman_datamodels.datamodels as models
    from astropy.time import Time

    from ..system.versions import __version__

    with naming(l1):
        with open_asdf(l1, lazy_tree=True) as file, models.open(file) as raw:
            meta = raw.meta.copy()
        for key in NOT_OF_L1 & meta.keys():
            del meta[key]
        problem = meta["exposure"].get("data_problem")
        if isinstance(problem, bool):  # a text from version 1.1.0 on
            meta["exposure"]["data_problem"] = "unspecified" if problem else None
        model = models.ImageModel.create_fake_data(defaults={"meta": meta}, shape=(2, 2))
    meta = model.meta
    meta["filename"] = name
    meta["model_type"] = "ImageModel"
    meta["file_date"] = Time(datetime.now(UTC).replace(tzinfo=None), scale="utc")
    meta["calibration_software_name"] = "roman-dask-l2"
    meta["calibration_software_version"] = __version__
    if "product_type" in meta:
        meta["product_type"] = "l2"
    meta["cal_step"] = {key: steps.get(key, "INCOMPLETE") for key in CAL_STEPS}
    meta["photometry"] = dict(photometry)
    meta["wcs"] = wcs
    return model


def check_model(l1: Path, model: Any) -> None:
    """An ``ImageModel`` must be what its schema wants.

    Raises
    ------
    InputError
    """
    import asdf

    with naming(l1), _quiet():
        asdf.AsdfFile({"roman": model_tree(model)}).validate()


@contextmanager
def naming(l1: Path) -> Iterator[None]:
    """What is wrong with the metadata of a Level 1 file becomes an `InputError` that names it."""
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # schemas, models and converters fail in every way
        log.debug("metadata", exc_info=True)
        path = [str(key) for key in getattr(error, "absolute_path", ())]
        where = ".".join(path) or "its metadata"
        reason = " ".join(str(getattr(error, "message", error)).split()) or type(error).__name__
        raise InputError(f"{l1}: {where} cannot go into a Level 2 file: {reason[:200]}") from error
