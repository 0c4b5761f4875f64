"""Text for people: tables, durations, and the word that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; columns are as wide as they must be, numbers stand on the right."""
    if not rows:
        return []
    columns = list(zip(names, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_number(text) for text in column[1:]) for column in columns]
    return [
        "  ".join(
            text.rjust(width) if on_right else text.ljust(width)
            for text, width, on_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in zip(*columns, strict=True)
    ]


def _number(text: str) -> bool:
    return not text.strip("0123456789.-")


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 20 s``, ``5 h 12 min`` or ``2 d 3 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // part} {small}"
    return f"{whole // 60} min {whole % 60} s"


def clock(seconds: float) -> str:
    """The time of day, so many seconds from now; with the date if that is another day."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    return end.strftime("%H:%M" if end.date() == now.date() else "%Y-%m-%d %H:%M")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`, ignoring the case of its letters.

    Parameters
    ----------
    name : str
        A name that is not known.
    known : iterable of str
    cutoff : float
        How similar they must be, from 0 to 1 (equal).

    Returns
    -------
    str or None
        None if no known name is similar.
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else None
