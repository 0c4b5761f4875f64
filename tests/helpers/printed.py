"""What a page says that is printed, against what is.

The words must be the same; ``...`` stands for anything, and spaces may vary. Whole numbers must be
the same; others may differ by `TOLERANCE` or by one in the last digit that the page has. Digits
within a word, as in ``WFI01``, are part of the word. These may be any number:

- times of day; numbers with one of `UNITS`: times and sizes of memory;
- numbers below one of the `HEADINGS` of a table: the same;
- all numbers of a block below a comment `VARIES`: what follows from the memory of the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOLERANCE = 0.02
"""Relative."""
UNITS = ("s", "min", "h", "GB", "MB")
HEADINGS = ("seconds", "CPU s", "peak GB", "wall s")
VARIES = "<!-- these numbers depend on the machine -->"

_NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
_CLOCK = r"\d\d:\d\d(?::\d\d)?"
_TOKEN = re.compile(rf"\.\.\.|{_CLOCK}|(?<![\w.]){_NUMBER}")
_UNIT = re.compile(rf"\s?(?:{'|'.join(UNITS)})\b")


@dataclass(frozen=True)
class _Number:
    """A number of a page that has to be found."""

    text: str
    free: bool

    def fits(self, found: str) -> bool:
        said, value = (text.replace(",", "") for text in (self.text, found))
        if self.free:
            return True
        if said.lstrip("+-").isdigit():
            return float(said) == float(value)
        mantissa, _, exponent = said.partition("e")
        digits = len(mantissa.partition(".")[2])
        last = 10.0 ** (int(exponent or 0) - digits)
        allowed = max(TOLERANCE * abs(float(said)), 1.001 * last)
        return abs(float(said) - float(value)) <= allowed


def difference(said: str, printed: str, numbers: bool = True) -> str:
    """Why what was printed is not what the page says; empty if it is.

    Parameters
    ----------
    said : str
        Lines of the page, which stand together among those that were printed.
    printed : str
    numbers : bool
        Numbers are compared.
    """
    pattern, wanted = _pattern(said)
    problem = "other words"
    for match in re.finditer(pattern, printed, re.MULTILINE):
        wrong = [
            f"{number.text} is {found}"
            for number, found in zip(wanted, match.groups(), strict=True)
            if numbers and not number.fits(found)
        ]
        if not wrong:
            return ""
        problem = f"other numbers: {', '.join(wrong)}"
    return problem


def _pattern(said: str) -> tuple[str, list[_Number]]:
    """A pattern for the words, with a group for each number."""
    lines, wanted, columns = [], [], []
    for line in said.rstrip().splitlines():
        columns = _columns(line) or columns
        parts, end = [], 0
        for token in _TOKEN.finditer(line):
            parts.append(_words(line[end : token.start()]))
            end = token.end()
            if token[0] == "...":
                parts.append(".*")
            elif re.fullmatch(_CLOCK, token[0]):
                parts.append(_CLOCK)
            else:
                under = any(a < end and token.start() < b for a, b in columns)
                free = under or _UNIT.match(line, end) is not None
                wanted.append(_Number(token[0], free))
                parts.append(f"({_NUMBER})")
        lines.append("".join([*parts, _words(line[end:])]))
    return "^" + r"\s*\n".join(lines) + r"\s*$", wanted


def _columns(line: str) -> list[tuple[int, int]]:
    """Where the headings of times and sizes stand, if it is a line of headings."""
    found = (re.search(rf"(?<!\S){re.escape(name)}(?!\S)", line) for name in HEADINGS)
    return [match.span() for match in found if match and not re.search(r"\d", line)]


def _words(text: str) -> str:
    return re.sub(r"(?:\\ |\s)+", r"\\s+", re.escape(text))
