"""Drawing S: subtraction of the layer's own polynomial."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ...config.noise_commands.own_sky import OwnSky
from ...core.detector import Window
from ...core.exposure import Exposure
from ...io.arrays import Placed
from ...steps.sky import subtract_model
from ..image_sky import fit_image_sky
from .drawing import SumChange


def find(
    argument: OwnSky,
    image: Callable[[Window], np.ndarray],
    flags: Placed | None,
    exposure: Exposure,
) -> Callable[..., np.ndarray] | None:
    """Subtraction of the polynomial; None if too few cells have usable pixels."""
    coefs = fit_image_sky(image, flags, argument.order, exposure)
    if coefs is None:
        return None
    return partial(subtract_model, coefs=coefs, order=argument.order, side=exposure.side)


drawing = SumChange(find)
