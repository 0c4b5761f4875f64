"""Reading a label from left to right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ...core.cells import MAX_ORDER
from ...errors import InputError


@dataclass
class LabelText:
    """A label, and how much of it has been read.

    Attributes
    ----------
    label : str
    at : int
        Index of the next character.
    given : set of str
        Arguments of the current command that have been read.
    """

    label: str
    at: int = 0
    given: set[str] = field(default_factory=set)

    def take(self, pattern: str) -> str:
        """Read the text that matches `pattern` here; empty if none does."""
        found = re.compile(pattern).match(self.label, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def problem(self, what: str, at: int) -> InputError:
        """The error that something is wrong with the character of index `at`."""
        return InputError(f"NOISE.LAYER {self.label!r}: {what} at position {at + 1}")

    def argument(self, command: str, known: str) -> str:
        """The next argument, a letter of `known`; empty at the end of the command."""
        at = self.at
        letter = self.take(r"[^A-Z]")
        if letter and letter not in known:
            raise self.problem(f"unknown argument {letter!r} of {command}", at)
        if letter in self.given:
            raise self.problem(f"second argument {letter!r} of {command}", at)
        self.given.add(letter)
        return letter

    def number(self, name: str) -> float:
        """A decimal number without sign or exponent, which follows `name`."""
        at = self.at
        digits = self.take(r"[0-9.]+")
        if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", digits):
            raise self.problem(f"expected a number after {name!r}, found {digits!r}", at)
        if not math.isfinite(float(digits)):
            raise self.problem(f"number after {name!r} is too large", at)
        return float(digits)

    def order(self, name: str) -> int:
        """Order of a polynomial, which may follow `name`; 0 if it does not."""
        at = self.at
        digits = self.take(r"[0-9.]+") or "0"
        if "." in digits:
            raise self.problem(f"expected a whole number after {name!r}, found {digits!r}", at)
        if float(digits) > MAX_ORDER:
            raise self.problem(f"order after {name!r} is larger than {MAX_ORDER}", at)
        return int(digits)
