"""The combined mask: which pixels must not be used, grown to their neighbours for some flags."""

from __future__ import annotations

import numpy as np
from pydantic import field_validator

from ..core.dq import GROWTHS, MASK_GROWTH, PIXEL, growth_halo
from ..core.jit import kernel
from ..core.step import Params, Step, Tile


class MaskParams(Params):
    """Parameters of `combine_mask`."""

    growth: tuple[tuple[str, int], ...] = tuple(MASK_GROWTH.items())
    """Flag -> pixels masked around it: 1, 5 (cardinal neighbours), 9 (3 x 3) or 25 (5 x 5)."""

    @field_validator("growth", mode="before")
    @classmethod
    def _pairs(cls, value):
        return tuple(value.items()) if isinstance(value, dict) else value

    @field_validator("growth")
    @classmethod
    def _known(cls, value):
        for name, n in value:
            if name not in PIXEL:
                raise ValueError(f"unknown flag {name}")
            if n not in GROWTHS:
                raise ValueError(f"growth {n} of {name}, expected one of {GROWTHS}")
        return value


@kernel
def _grow(dq, bits, out):
    """`bits`: flags that mask 1, 5, 9 and 25 pixels."""
    one, five, nine, twentyfive = bits
    ny, nx = dq.shape
    for y in range(ny):
        for x in range(nx):
            flags = dq[y, x]
            if flags & (one | five | nine | twentyfive) == 0:
                continue
            out[y, x] = True
            reach = 2 if flags & twentyfive else 1 if flags & (five | nine) else 0
            if reach == 0:
                continue
            cardinal = flags & (nine | twentyfive) == 0
            for v in range(max(y - reach, 0), min(y + reach + 1, ny)):
                for u in range(max(x - reach, 0), min(x + reach + 1, nx)):
                    if not cardinal or v == y or u == x:
                        out[v, u] = True


def combine_mask(dq: np.ndarray, *, tile: Tile, params: MaskParams) -> np.ndarray:
    """Grow flagged pixels into the combined mask of the active array.

    Parameters
    ----------
    dq : ndarray (y, x) of uint32

    Returns
    -------
    ndarray (y, x) of bool
        True = not to be used. Flags of reference pixels do not reach into the active array.
    """
    bits = tuple(
        np.uint32(sum(PIXEL[name] for name, n in params.growth if n == size)) for size in GROWTHS
    )
    out = np.zeros(dq.shape, np.bool_)
    act = tile.active
    grown = np.zeros(dq[act].shape, np.bool_)
    _grow(np.ascontiguousarray(dq[act]), bits, grown)
    out[act] = grown
    return out


step = Step(
    name="mask",
    kernel=combine_mask,
    reads=("dq",),
    writes=("mask",),
    halo=lambda params: growth_halo(dict(params.growth)),
    params=MaskParams,
    settings={"growth": "MASK"},
)
