"""From DN/s to surface brightness, for ``meta.photometry``."""

from __future__ import annotations

from .detector import OMEGA_IDEAL

MJY_PER_SR: dict[str, float] = {
    "F062": 0.5396431,
    "F087": 0.7444179,
    "F106": 0.6097065,
    "F129": 0.6832084,
    "F146": 0.2222766,
    "F158": 0.6812552,
    "F184": 1.0482703,
    "F213": 1.0872729,
}
"""Surface brightness (MJy/sr) that gives 1 DN/s in the flat-fielded image, by optical element.

Nominal values, as romanimpreprocess 1.0.0 writes them; no exposure has been calibrated with them.
"""

NOT_IMAGING: dict[str, str] = {
    "GRISM": "its light is dispersed",
    "PRISM": "its light is dispersed",
    "DARK": "it lets no light through",
    "NOT_CONFIGURED": "it is unknown",
}
"""Other optical elements of the Level 1 schema, and why they have no photometry."""


def not_imaging(optical_element: str) -> str:
    """A warning for exposures that are not images of the sky; empty for those that are."""
    why = NOT_IMAGING.get(optical_element)
    if why is None:
        return ""
    return (
        f"optical element {optical_element}: {why}, so rates have no conversion to surface "
        "brightness, and flat field, pixel areas and sky model are those of an image"
    )


def photometry(optical_element: str) -> dict[str, float | None]:
    """Contents of ``meta.photometry``.

    The flat field makes every pixel respond like one of (0.11 arcsec)^2, so one conversion holds
    over the whole image. Elements without an entry in `MJY_PER_SR` get None; those that make no
    image of the sky have no pixel area either.

    Returns
    -------
    dict
        ``conversion_megajanskys`` (MJy/sr per DN/s), its uncertainty, and ``pixel_area`` (sr).
    """
    return {
        "conversion_megajanskys": MJY_PER_SR.get(optical_element),
        "conversion_megajanskys_uncertainty": None,
        "pixel_area": None if optical_element in NOT_IMAGING else OMEGA_IDEAL,
    }
