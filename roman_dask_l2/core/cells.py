"""The cells that sky models are fitted to, and the greatest order that they can carry."""

from __future__ import annotations

CELLS = 8
"""The sky model is fitted to the medians of CELLS x CELLS cells."""
MAX_ORDER = CELLS - 1
"""Along one axis CELLS points tell polynomials up to this order apart; in two dimensions its
terms, (MAX_ORDER + 1) (MAX_ORDER + 2) / 2, are fewer than the cells."""
