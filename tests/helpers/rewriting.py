"""Small ASDF files with one entry changed."""

from __future__ import annotations

import os

import asdf
import numpy as np


def rewrite_array(path, key, change):
    """Replace one entry of a small ASDF file in place.

    Parameters
    ----------
    path : path
    key : str
        Where it is under ``roman``, dots between levels: "data", "amp33.med".
    change : callable, array or None
        The new array, or a function that makes it of the old one; None removes the entry.
    """
    *parents, last = key.split(".")
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        node = file["roman"]
        for name in parents:
            node = node[name]
        if change is None:
            del node[last]
        else:
            node[last] = change(np.array(node[last])) if callable(change) else change
        file.write_to(f"{os.fspath(path)}.new")
    os.replace(f"{os.fspath(path)}.new", path)
