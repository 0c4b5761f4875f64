"""Parameters of the ramp fit, and the numbers that follow from them alone."""

from __future__ import annotations

from math import log

import numpy as np

from ..core.step import Params


class RampFitParams(Params):
    """Parameters of `fit_ramp`."""

    slope: float = 0.4
    """Rate for which the weights are optimal, DN/s."""
    gain: float = 1.8
    """Gain for which the weights are optimal, e/DN."""
    sigma_read: float = 6.5
    """Read noise of one read for which the weights are optimal, DN."""
    threshold_a: float = 5.5
    """Jump threshold (sigma) at rates up to `rate_a`."""
    threshold_b: float = 4.5
    """Jump threshold (sigma) at rates from `rate_b` up."""
    rate_a: float = 1.0
    """DN/s."""
    rate_b: float = 1000.0
    """DN/s."""
    truncated_min: int = 2
    """Used resultants before saturation that a two-point fit needs (romanimpreprocess: 3)."""
    dark_noise: bool = False
    """The dark current was subtracted from the ramp before: include its shot noise."""
    ipc_noise: bool = False
    """The ramp was corrected for inter-pixel capacitance: include the amplified read noise."""
    quality: bool = True
    """Compute chisq and dumo (romanimpreprocess writes zeros)."""
    exclude: bool = True
    """Exclude resultants that are DO_NOT_USE or DROPOUT from their pixel's fit (romanimpreprocess
    fits them)."""
    check_references: bool = True
    """Treat a read noise that is not positive as missing; romanimpreprocess uses it."""
    reference_dq: bool = True
    """Join the read-noise file's flags, if it has any."""
    half_precision_errors: bool = False
    """Round err and var_poisson to float16 immediately, as romanimpreprocess does."""

    @property
    def noise_ratio(self) -> float:
        """Ratio u of Poisson to read noise that the weights assume, 1/s."""
        return self.slope / (self.gain * self.sigma_read**2)

    @property
    def thresholds(self) -> tuple[np.float32, ...]:
        """Jump thresholds at low and high rates, these rates, and the logarithm of their ratio."""
        a, b = self.rate_a, self.rate_b
        return tuple(np.float32(v) for v in (self.threshold_a, self.threshold_b, a, b, log(b / a)))
