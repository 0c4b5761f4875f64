"""Kernels of the ramp fit that read the resultants' flags: where saturation begins, and the folding
of these flags into two dimensions."""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.jit import kernel

_DNU = np.uint8(GROUP["DO_NOT_USE"])
_SAT = np.uint8(GROUP["SATURATED"])
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])


@kernel
def first_saturated(groupdq, start, ends):
    """Write to `ends` (y, x) the first resultant flagged SATURATED, R if there is none.

    Returns the union of all flags of the resultants from `start` on (uint8)."""
    n_res, ny, nx = groupdq.shape
    seen, every = np.zeros(nx, np.uint8), np.uint8(0)
    for y in range(ny):
        row = ends[y]
        for x in range(nx):
            row[x] = n_res
        for j in range(n_res - 1, -1, -1):
            flags, index = groupdq[j, y], np.int16(j)
            for x in range(nx):
                row[x] = index if flags[x] & _SAT else row[x]
            if j >= start:
                for x in range(nx):
                    seen[x] |= flags[x]
    for x in range(nx):
        every |= seen[x]
    return every


@kernel
def fold_flags(groupdq, pixeldq, ends, start, dq, endslice):
    """Fold resultant flags (R, y, x) into `dq` (y, x), except on reference pixels.

    SATURATED and other flags count as in `fit_ramp`; `endslice` (y, x) gets the last resultant
    before a transition into saturation, -1 if there is none."""
    n_res, ny, nx = groupdq.shape
    seen, unusable = np.empty(nx, np.uint8), np.empty(nx, np.uint8)
    for y in range(ny):
        last, e, before, folded = endslice[y], ends[y], pixeldq[y], dq[y]
        for x in range(nx):
            last[x] = -1
            seen[x] = 0
            unusable[x] = _DNU
        for j in range(n_res):
            f = groupdq[j, y]
            for x in range(nx):
                unusable[x] &= f[x]
                seen[x] |= np.uint8(0) if f[x] & _SAT else f[x] & ~_DNU
            if j + 1 < n_res:
                following, index = groupdq[j + 1, y], np.int16(j)
                for x in range(nx):
                    last[x] = index if following[x] & ~f[x] & _SAT else last[x]
        if start + 1 < n_res:
            f = groupdq[start + 1, y]
            for x in range(nx):
                unusable[x] |= _DNU if f[x] & _SAT else np.uint8(0)
        for x in range(nx):
            flags = np.uint32(seen[x] | (unusable[x] & _DNU))
            flags |= np.uint32(_SAT) if e[x] < n_res else np.uint32(0)
            folded[x] = before[x] | (np.uint32(0) if before[x] & _REFERENCE else flags)
