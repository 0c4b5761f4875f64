"""Options of the improved Roman reference correction."""

from __future__ import annotations

from ..core.step import Params


class IrrcParams(Params):
    """Parameters of `refpix_irrc`."""

    zero_bad: bool = True
    """Count a reference pixel with BAD_REF_PIXEL as 0; its signal is lost."""
    remove_offset: bool = True
    """Take each pixel's mean over the resultants out before the correction, and add it back."""
    remove_trends: bool = True
    """Subtract from each channel the straight line in time through its border rows."""
    cosine_interpolate: bool = True
    """Fill the gaps between the rows of the reference output with a weighted mean of the samples
    around."""
    fft_interpolate: bool = True
    """Smooth what was filled in, three times."""
    zero_active: bool = False
    """With `zero_bad`, count an active pixel with that flag as 0 too, as romancal 1.1 does."""
    skip_zeros: bool = False
    """Take a sample that is equal to its pixel's own mean for a missing one: it is left out of the
    trend and of its subtraction, and filled in in the reference output; romancal 1.1 does this."""
    two_samples_more: bool = False
    """Multiply the correction by (L + 2) / L, where L = 140 N is the number of samples of a channel
    with N rows; romancal 1.1 does this."""
    replace_amp33: bool = False
    """Give the reference output without its trend as the one to store, as romancal 1.1 does."""
    shift_options: bool = False
    """Let each of the first five options, from `zero_bad` on, obey the one that follows it, and the
    last one be true, as romancal 1.1 does; nothing changes while all are true."""

    @property
    def in_force(self) -> IrrcParams:
        """The options as they are obeyed."""
        if not self.shift_options:
            return self
        names = ("zero_bad", "remove_offset", "remove_trends", "cosine_interpolate")
        then = (*names[1:], "fft_interpolate")
        obeyed = {name: getattr(self, other) for name, other in zip(names, then, strict=True)}
        return self.model_copy(update=obeyed | {"fft_interpolate": True, "shift_options": False})
