"""The combined mask: which pixels must not be used, grown to their neighbours for some flags."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from ..core.dq import GROWTHS, MASK_GROWTH, PIXEL, growth_halo
from ..core.jit import kernel
from ..core.step import Params, Step, Tile


def _pairs(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else value


def _known(value: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    for name, n in value:
        if name not in PIXEL:
            raise ValueError(f"unknown flag {name}")
        if n not in GROWTHS:
            raise ValueError(f"growth {n} of {name}, expected one of {GROWTHS}")
    return value


Growth = Annotated[tuple[tuple[str, int], ...], BeforeValidator(_pairs), AfterValidator(_known)]
"""Flag -> pixels masked around it, one of `GROWTHS`; a mapping is understood."""
DEFAULT_GROWTH = tuple(MASK_GROWTH.items())


class MaskParams(Params):
    """Parameters of `combine_mask`."""

    growth: Growth = DEFAULT_GROWTH
    """Flag -> pixels masked around it: 1, 5 (cardinal neighbours), 9 (3 x 3) or 25 (5 x 5)."""


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


def grown_mask(dq: np.ndarray, growth: tuple[tuple[str, int], ...]) -> np.ndarray:
    """Pixels around those with flags of a table.

    Parameters
    ----------
    dq : ndarray (y, x) of uint32
    growth : tuple of (str, int)
        Flag, pixels masked around it.

    Returns
    -------
    ndarray (y, x) of bool
    """
    bits = tuple(np.uint32(sum(PIXEL[name] for name, n in growth if n == size)) for size in GROWTHS)
    out = np.zeros(dq.shape, np.bool_)
    _grow(np.ascontiguousarray(dq), bits, out)
    return out


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
    out = np.zeros(dq.shape, np.bool_)
    act = tile.active
    out[act] = grown_mask(dq[act], params.growth)
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
