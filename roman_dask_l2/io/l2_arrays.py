"""Arrays of a Level 2 file that have one value per active pixel."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class L2Array:
    """One array of the file.

    Attributes
    ----------
    key : tuple of str
        Where it is in the tree.
    dtype : str
        The type that it is stored with.
    variable : str
        What it is called between steps, see `core.step.VARIABLES`.
    """

    key: tuple[str, ...]
    dtype: str
    variable: str


L2_ARRAYS: dict[str, L2Array] = {
    "data": L2Array(("roman", "data"), "float32", "data"),
    "data_withsky": L2Array(("roman", "data_withsky"), "float32", "rate"),
    "dq": L2Array(("roman", "dq"), "uint32", "dq"),
    "err": L2Array(("roman", "err"), "float16", "err"),
    "var_poisson": L2Array(("roman", "var_poisson"), "float16", "var_poisson"),
    "chisq": L2Array(("roman", "chisq"), "float16", "chisq"),
    "dumo": L2Array(("roman", "dumo"), "float16", "dumo"),
    "mask": L2Array(("mask",), "bool", "mask"),
    # int8 where the exposure has no more than 127 resultants, see `index_dtype`
    "endslice": L2Array(("processinfo", "endslice"), "int16", "endslice"),
    "noise_ratio": L2Array(("processinfo", "noise_ratio"), "float32", "noise_ratio"),
}
"""All that files may have, by the last part of the key; recipes can add variables to ``roman``."""

IMAGE_ARRAYS = {name: array.dtype for name, array in L2_ARRAYS.items() if array.key[0] == "roman"}
"""Arrays of ``roman`` and the type that they are stored with."""

BESIDE_ROMAN = [name for name, array in L2_ARRAYS.items() if array.key[0] != "roman"]
"""Arrays that are elsewhere in the tree."""


def stored_images(made: Collection[str]) -> dict[str, str]:
    """Arrays of ``roman`` that a recipe fills, each with the variable that it holds.

    Where no sky is subtracted, ``data`` is the rate, and there is no ``data_withsky`` beside it.

    Parameters
    ----------
    made : collection of str
        Variables that the recipe makes.
    """
    found = {name: L2_ARRAYS[name].variable for name in IMAGE_ARRAYS}
    if found["data"] not in made:
        found["data"] = found.pop("data_withsky")
    return {name: variable for name, variable in found.items() if variable in made}


def variable_of(name: str) -> str:
    """What an array of the file is called between steps."""
    return L2_ARRAYS[name].variable if name in L2_ARRAYS else name
