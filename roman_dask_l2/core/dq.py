"""Data-quality flags and the mask-growth table: the only place where they are defined.

The bit values are those of ``roman_datamodels.dqflags`` (a test compares them); they are written
out here because importing that package costs more than a second, which neither a worker
nor ``roman-dask-l2 --help`` should spend.
"""

from __future__ import annotations

PIXEL: dict[str, int] = {
    "DO_NOT_USE": 1 << 0,
    "SATURATED": 1 << 1,
    "JUMP_DET": 1 << 2,
    "DROPOUT": 1 << 3,
    "GW_AFFECTED_DATA": 1 << 4,
    "PERSISTENCE": 1 << 5,
    "AD_FLOOR": 1 << 6,
    "OUTLIER": 1 << 7,
    "UNRELIABLE_ERROR": 1 << 8,
    "NON_SCIENCE": 1 << 9,
    "DEAD": 1 << 10,
    "HOT": 1 << 11,
    "WARM": 1 << 12,
    "LOW_QE": 1 << 13,
    "TELEGRAPH": 1 << 15,
    "NONLINEAR": 1 << 16,
    "BAD_REF_PIXEL": 1 << 17,
    "NO_FLAT_FIELD": 1 << 18,
    "NO_GAIN_VALUE": 1 << 19,
    "NO_LIN_CORR": 1 << 20,
    "NO_SAT_CHECK": 1 << 21,
    "UNRELIABLE_BIAS": 1 << 22,
    "UNRELIABLE_DARK": 1 << 23,
    "UNRELIABLE_SLOPE": 1 << 24,
    "UNRELIABLE_FLAT": 1 << 25,
    "UNRELIABLE_RESET": 1 << 28,
    "OTHER_BAD_PIXEL": 1 << 30,
    "REFERENCE_PIXEL": 1 << 31,
}
"""Flags of the two-dimensional ``dq`` (uint32), name -> value, one bit each. They are those of
``roman_datamodels.dqflags.pixel``."""

GROUP: dict[str, int] = {
    "DO_NOT_USE": 1 << 0,
    "SATURATED": 1 << 1,
    "JUMP_DET": 1 << 2,
    "DROPOUT": 1 << 3,
    "AD_FLOOR": 1 << 6,
    "WFI18_TRANSIENT": 1 << 7,
}
"""Flags of one resultant of a pixel (``groupdq``, uint8)."""

MASK_GROWTH: dict[str, int] = {
    "DO_NOT_USE": 1,
    "JUMP_DET": 5,
    "DROPOUT": 25,
    "GW_AFFECTED_DATA": 1,
    "PERSISTENCE": 1,
    "AD_FLOOR": 5,
    "UNRELIABLE_ERROR": 1,
    "NON_SCIENCE": 1,
    "DEAD": 9,
    "HOT": 9,
    "WARM": 1,
    "LOW_QE": 9,
    "TELEGRAPH": 1,
    "NO_FLAT_FIELD": 9,
    "NO_GAIN_VALUE": 9,
    "NO_LIN_CORR": 9,
    "NO_SAT_CHECK": 9,
    "UNRELIABLE_BIAS": 1,
    "UNRELIABLE_DARK": 9,
    "UNRELIABLE_SLOPE": 9,
    "UNRELIABLE_FLAT": 9,
    "UNRELIABLE_RESET": 9,
    "OTHER_BAD_PIXEL": 9,
}
"""Pixels masked around a flagged one in the combined mask.

1 = the pixel itself, 5 = with its four cardinal neighbours, 9 = 3 x 3, 25 = 5 x 5. A flag that is
not listed masks nothing: a saturated pixel stays usable, its ramp was fitted before saturation.
"""

GROWTHS: tuple[int, ...] = (1, 5, 9, 25)


def growth_halo(table: dict[str, int]) -> int:
    """How many pixels beyond a tile's edge the combined mask needs for a growth `table`."""
    reach = {1: 0, 5: 1, 9: 1, 25: 2}
    return max((reach[n] for n in table.values()), default=0)
