"""Parameters of the likelihood ramp fit."""

from __future__ import annotations

from math import erfc, inf, log, pi, sqrt
from typing import Literal

from pydantic import Field

from ..core.step import Params

THRESHOLD = 4.5
"""Significance (sigma) from which a difference counts as a jump, unless the user wants another."""


class LikelihoodParams(Params):
    """Parameters of `fit_likelihood`."""

    rejection_threshold: float = Field(THRESHOLD, gt=0)
    """Significance (sigma) from which a difference, or two in a row, count as a jump."""
    most_dropped: int | None = Field(None, ge=0)
    """Most differences of a pixel that may be dropped as jumps; null: any number."""
    fixed_threshold: bool = False
    """Search for jumps with 4.5 standard deviations whatever `rejection_threshold` says (romancal
    1.1 does not pass its option on)."""
    only_rises: bool = True
    """Take only what has risen for a jump, in two differences both of them, since a cosmic ray adds
    charge (romancal drops what has fallen as well)."""
    flag_resultant: Literal["after", "before"] = "after"
    """Which resultant gets JUMP_DET, the one after the jump (romancal) or the one before it (as
    `ramp_fit`)."""
    read_noise_of: Literal["read", "difference"] = "read"
    """What the read-noise file gives: the noise of one read, or that of the difference of two."""
    start_rate: Literal["used", "all"] = "used"
    """Differences whose median is the rate assumed in the search for jumps: those that are used and
    finite, or all of them, flagged ones too (romancal)."""
    chisq: Literal["reduced", "sum"] = "reduced"
    """chi-square per degree of freedom, or not divided (romancal)."""
    dumo: Literal["used", "all"] = "used"
    """Differences of the uniform-weight slope in `dumo`: those of the fit, or all (romancal)."""
    flag_ambiguous: bool = True
    """Set DO_NOT_USE where jumps leave fewer than two differences: which of them was the jump can
    then not be told (romancal keeps such pixels unflagged)."""
    flag_nan: bool = True
    """Set DO_NOT_USE where no rate can be fitted (romancal leaves NaN without a flag)."""
    check_gain: bool = True
    """Set NO_GAIN_VALUE where the gain is not within 1e-4 to 1e4 e/DN, and fit with 1 e/DN
    (romancal gives NaN without a flag)."""
    clip_errors: bool = True
    """Clip err and var_poisson to the range of float16 and set UNRELIABLE_ERROR there (romancal
    stores infinity)."""
    other_flags: bool = True
    """Fold all flags of resultants into the pixel's (romancal: only DO_NOT_USE, SATURATED and
    JUMP_DET)."""
    dark_noise: bool = False
    """The dark current was subtracted from the ramp before: include its shot noise."""
    ipc_noise: bool = False
    """The ramp was corrected for inter-pixel capacitance: include the amplified read noise."""
    sigma_read: float = Field(6.5, gt=0)
    """Read noise of one read, DN, where the file has no usable value."""
    check_references: bool = True
    """Treat a read noise that is not finite, or below 0.01 DN, as missing."""
    reference_dq: bool = True
    """Join the read-noise file's flags, if it has any."""
    half_precision_errors: bool = False
    """Round err, var_poisson and dumo to float16 immediately, as romancal does."""

    @property
    def limits(self) -> tuple[float, float, bool]:
        """Least improvement of chi-square by leaving out one difference, and two in a row; and
        `only_rises`.

        Both have the two-sided probability of a normal deviate beyond the threshold: its square,
        and the quantile ``-2 ln p`` of chi-square with two degrees of freedom.
        """
        t = THRESHOLD if self.fixed_threshold else self.rejection_threshold
        p = erfc(t / sqrt(2))
        # Beyond 37 sigma p underflows; then ln p = -t^2/2 - ln(t sqrt(pi/2)) to 1e-3.
        log_p = log(p) if p > 1e-300 else -t * t / 2 - log(t * sqrt(pi / 2))
        return t * t, -2 * log_p, self.only_rises

    @property
    def most(self) -> float:
        """`most_dropped` as a number."""
        return inf if self.most_dropped is None else self.most_dropped
