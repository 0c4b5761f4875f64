"""A Level-2 file as an ``xarray.Dataset`` that reads pixels when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..core import dq
from ..core.detector import BORDER, Window
from ..core.step import VARIABLES
from ..errors import InputError
from .arrays import FileArray
from .asdf_file import open_asdf
from .l2 import EDGES
from .l2_arrays import BESIDE_ROMAN, IMAGE_ARRAYS, L2_ARRAYS, variable_of
from .layout import Layout, read_layout

try:
    import xarray
    from xarray.backends import BackendArray
    from xarray.core import indexing
except ImportError as error:
    raise ImportError("open_l2 needs xarray: pip install 'roman-dask-l2[xarray]'") from error

_UPRIGHT = {
    "left": ("detector_row", "border"),
    "right": ("detector_row", "border"),
    "top": ("border", "detector_column"),
    "bottom": ("border", "detector_column"),
}
"""Dimensions of the reference border, edge by edge."""


def open_l2(
    path: str | os.PathLike[str], chunks: int | str | Mapping[str, Any] | None = None
) -> xarray.Dataset:
    """Open a Level-2 file. No pixel is read before it is used; any number of files may be open.

    Parameters
    ----------
    path : str or Path
    chunks : int, str or mapping, optional
        Chunks of Dask arrays, as ``xarray.Dataset.chunk`` takes them (``"auto"``, ``{"y": 512}``).
        By default there is no Dask in it: what is indexed is read.

    Returns
    -------
    xarray.Dataset
        Images ``(y, x)`` of the active pixels: `data`, `data_withsky`, `err` (DN/s) and so on, the
        combined `mask`, `endslice` if it was kept; `amp33` and the reference border with all
        resultants. Coordinates: `y`, `x` (pixels, from 0), `ra`, `dec` (deg, ICRS, computed from
        the file's gwcs where they are asked for), `time` (s, mean time of each resultant). Each
        array has `units` and `long_name`; `dq` has `flag_masks` and `flag_meanings` (CF
        conventions).

    Raises
    ------
    InputError
        If the file cannot be read or is no Level-2 file.

    Examples
    --------
    >>> image = open_l2("l2.asdf")  # doctest: +SKIP
    >>> image.data.where(~image.mask).sel(y=slice(0, 99)).mean()  # doctest: +SKIP
    """
    layout = read_layout(path)
    image = layout.array("roman", "data")
    if image is None or len(image.shape) != 2:
        raise InputError(f"{path}: no image roman.data, expected a Level-2 file")
    variables = {
        name: _variable(array, dims, _attributes(name))
        for name, array, dims in _arrays(layout, image.shape)
    }
    dataset = xarray.Dataset(variables, _coordinates(layout, image.shape), _header(layout))
    return dataset if chunks is None else dataset.chunk(chunks)


def _arrays(
    layout: Layout, shape: tuple[int, ...]
) -> Iterator[tuple[str, FileArray, tuple[str, ...]]]:
    """All arrays of the file that belong to pixels: name, where it lies, dimensions."""
    images = [("roman", name) for name in {**IMAGE_ARRAYS, **_further(layout)}]
    for key in (*images, *(L2_ARRAYS[name].key for name in BESIDE_ROMAN)):
        array = layout.array(*key)
        if array is not None and array.shape == shape:
            yield key[-1], array, ("y", "x")
    places = {"amp33": ("detector_row", "amp33_column")}
    places |= {f"border_ref_pix_{edge}": _UPRIGHT[edge] for edge in EDGES}
    for name, dims in places.items():
        if (array := layout.array("roman", name)) is not None:
            yield name, array, ("resultant", *dims)
    for edge in EDGES:
        name = f"dq_border_ref_pix_{edge}"
        if (array := layout.array("roman", name)) is not None:
            yield name, array, _UPRIGHT[edge]


def _further(layout: Layout) -> dict[str, None]:
    """Variables that the recipe asked for beside the usual ones."""
    return dict.fromkeys(name for name in VARIABLES if name in layout.tree["roman"])


def _attributes(name: str) -> dict[str, Any]:
    variable = VARIABLES.get(variable_of(name))
    if variable is not None:
        found: dict[str, Any] = {"long_name": variable.meaning, "units": variable.unit or "1"}
    elif name == "amp33":
        found = {"long_name": "reference output, as it was read", "units": "DN"}
    elif name.startswith("dq_"):
        found = {"long_name": "flags of reference pixels", "units": "1"}
    else:
        found = {"long_name": "reference pixels, as they were read", "units": "DN"}
    if name == "dq" or name.startswith("dq_"):
        found["flag_masks"] = np.array([*dq.PIXEL.values()], np.uint32)
        found["flag_meanings"] = " ".join(dq.PIXEL)
    return found


def _coordinates(layout: Layout, shape: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dim, size, what in zip(("y", "x"), shape, ("row", "column"), strict=True):
        about = f"{what} of the active array; {BORDER} more on the detector"
        found[dim] = (dim, np.arange(size), {"long_name": about, "units": "pixel"})
    times = layout.array("processinfo", "meta", "tbar")
    if times is not None:
        about = "mean time of the reads of a resultant"
        found["time"] = ("resultant", times.read(), {"long_name": about, "units": "s"})
    if layout.value("roman", "meta", "wcs") is not None:
        whole = (shape[0], shape[1])
        for axis, (name, about) in enumerate(
            (("ra", "right ascension (ICRS)"), ("dec", "declination (ICRS)"))
        ):
            source = _Sky(layout.path, layout.size_and_mtime, whole, axis)
            attributes = {"long_name": about, "units": "deg"}
            found[name] = _variable(source, ("y", "x"), attributes)
    return found


def _header(layout: Layout) -> dict[str, Any]:
    """What people ask for first, from the file's metadata."""
    keys = {
        "filename": ("roman", "meta", "filename"),
        "detector": ("roman", "meta", "instrument", "detector"),
        "optical_element": ("roman", "meta", "instrument", "optical_element"),
        "exposure_time_s": ("roman", "meta", "exposure", "exposure_time"),
        "calibration_software": ("roman", "meta", "calibration_software_name"),
        "calibration_software_version": ("roman", "meta", "calibration_software_version"),
        "medsky_DN_per_s": ("processinfo", "medsky"),
        "sky_order": ("processinfo", "skyorder"),
        "recipe": ("processinfo", "provenance", "recipe", "name"),
    }
    values = {name: layout.value(*key) for name, key in keys.items()}
    found = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    return {"path": layout.path, **found}


# -- reading on demand ---------------------------------------------------------------------------


def _variable(source: Any, dims: tuple[str, ...], attributes: dict[str, Any]) -> xarray.Variable:
    return xarray.Variable(dims, indexing.LazilyIndexedArray(_Lazy(source)), attributes)


class _Lazy(BackendArray):
    """What xarray wants of an array that is not in memory.

    Parameters
    ----------
    source : FileArray or _Sky
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype).newbyteorder("=")

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """Read the smallest window that holds what integers and slices ask for, and cut it."""
        *lead, y, x = (_span(k, n) for k, n in zip(key, self.shape, strict=True))
        window = Window(y[0].start, y[0].stop, x[0].start, x[0].stop)
        planes = [cut for cut, _ in lead]
        values = self.source.read(window, *planes)
        return values[tuple(then for _, then in (*lead, y, x))]


def _span(key: int | slice, size: int) -> tuple[slice, int | slice]:
    """What to read of an axis, and what to take of that."""
    if not isinstance(key, slice):
        at = int(key) % size
        return slice(at, at + 1), 0
    wanted = range(size)[key]
    if not wanted:
        return slice(0, 0), slice(None)
    first, last = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
    return slice(first, last + 1), slice(None, None, wanted.step)


class _Sky:
    """Right ascension or declination of the pixels, from the file's gwcs.

    Parameters
    ----------
    path : str
    size_and_mtime : tuple of int
        Size and time of change of the file.
    shape : tuple of int
    axis : int
        0 for right ascension, 1 for declination.
    """

    dtype = "float64"

    def __init__(
        self, path: str, size_and_mtime: tuple[int, int], shape: tuple[int, int], axis: int
    ) -> None:
        self.path, self.size_and_mtime, self.shape, self.axis = path, size_and_mtime, shape, axis

    def read(self, window: Window) -> np.ndarray:
        y, x = np.mgrid[window.slices]
        if not x.size:
            return np.empty(x.shape)
        return np.asarray(
            _gwcs(self.path, self.size_and_mtime)(x, y, with_bounding_box=False)[self.axis]
        )


@lru_cache(8)
def _gwcs(path: str, size_and_mtime: tuple[int, int]) -> Any:
    with open_asdf(path) as file:
        return file["roman"]["meta"]["wcs"]
