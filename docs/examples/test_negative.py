import numpy as np
from negative import NegativeParams, flag_negative

from roman_dask_l2 import PIXEL


def test_only_what_is_far_below_zero_is_flagged():
    rate = np.array([[1.0, -0.49, -0.51]], np.float32)
    err = np.full((1, 3), 0.1, np.float32)
    dq = np.full((1, 3), PIXEL["WARM"], np.uint32)
    found = flag_negative(rate=rate, err=err, dq=dq, params=NegativeParams(sigma=5))
    assert ((found & PIXEL["UNRELIABLE_SLOPE"]) != 0).tolist() == [[False, False, True]]
    assert (found & PIXEL["WARM"]).all()  # what was there is kept
    assert (dq == PIXEL["WARM"]).all()  # the input is as it was
