"""What the commands have in common that draw the noise of the light."""

from __future__ import annotations

from .command import Needs

LIGHT = Needs(light=True)

DETECTOR_BLOCK = "128 × 128 pixels of the frame, counted row by row"
"""For the manual: a block of draws on the image."""
