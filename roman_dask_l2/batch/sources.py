"""Where the exposures of a campaign come from: a list, file names, or a table."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ..config.messages import expected, problem
from ..config.model import Block
from ..config.types import FilePath, resolve_path
from ..errors import InputError
from .placeholders import TOKEN, bad_texts, placeholders, split_token

_SHOWN = 10
"""Problems of one kind that are told one by one."""


def as_value(value: Any) -> Any:
    """Placeholder values are text; numbers are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise expected("text or a number; write it in quotes")
    text = str(value).strip()
    if not text or "," in text or not text.isprintable():
        raise expected("text without commas that is not empty")
    return text


Value = Annotated[str, BeforeValidator(as_value)]


class Exposures(Block):
    """Where the exposures come from: exactly one of `list`, `glob` and `table`."""

    listed: Annotated[list[dict[str, Value]], Field(min_length=1)] | None = Field(
        default=None, alias="list"
    )
    """Mappings of placeholders to values, one for each exposure."""
    glob: Annotated[str, Field(min_length=1)] | None = None
    """Path of the Level-1 files with placeholders, whose values are taken from the names found."""
    table: FilePath | None = None
    """Table (``.csv`` or ``.ecsv``) whose columns are placeholders, with a row per exposure."""

    @model_validator(mode="after")
    def _one(self) -> Exposures:
        if sum(value is not None for value in (self.listed, self.glob, self.table)) != 1:
            raise problem("expected exactly one of list, glob and table")
        return self


def few(problems: list[str]) -> list[str]:
    """The first problems, and how many more there are."""
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more} more like these"] if more > 0 else [])]


@dataclass(frozen=True)
class Found:
    """One exposure, as its source gives it.

    Attributes
    ----------
    values : dict of str to str
        Placeholder -> value.
    origin : str
        Where it comes from, for messages.
    path : str or None
        Its Level-1 file, if that was found by its name.
    all_count : bool
        All values belong to its identity, not only those that the template uses.
    """

    values: dict[str, str]
    origin: str
    path: str | None = None
    all_count: bool = False


def find_exposures(exposures: Exposures, base: Path) -> list[Found]:
    """The exposures of a campaign, whose file lies in the folder `base`.

    Raises
    ------
    InputError
        If there are none, or where they come from cannot be used.
    """
    if exposures.listed is not None:
        return [Found(dict(v), f"exposures[{i}]") for i, v in enumerate(exposures.listed)]
    if exposures.glob is not None:
        return _globbed(exposures.glob, base)
    assert exposures.table is not None
    return _tabled(exposures.table)


def _globbed(pattern: str, base: Path) -> list[Found]:
    """Files whose names fit a pattern, and what stands in the places of its placeholders."""
    where = f"exposures.glob: {pattern!r}"
    if problems := list(bad_texts(pattern)):
        raise InputError(f"exposures.glob: {problem}" for problem in problems)
    if not any(placeholders(pattern)):
        raise InputError(f"{where}: no {{placeholder}} in it")
    try:
        whole = str(resolve_path(pattern, base))
    except PydanticCustomError as error:
        raise InputError(f"exposures.glob: {error.message()}") from None
    found, problems = [], []
    lazy, greedy = (_expression(whole, more) for more in ("+?", "+"))
    numbers = {split_token(t)[0] for t in TOKEN.finditer(whole) if t[1] and _is_number(t)}
    for name in sorted(glob.glob(_wildcards(whole))):
        first, second = lazy.fullmatch(name), greedy.fullmatch(name)
        if first is None or second is None:
            continue
        if first.groupdict() != second.groupdict():
            ways = " or ".join(
                ", ".join(f"{k}={v}" for k, v in m.groupdict().items()) for m in (first, second)
            )
            problems.append(
                f"{where}: {name} can be read as {ways}; write {{name:d}} for whole numbers"
            )
            continue
        values = {k: str(int(v)) if k in numbers else v for k, v in first.groupdict().items()}
        if "," in "".join(values.values()):
            problems.append(f"{where}: {name}: expected values without commas")
            continue
        found.append(Found(values, name, name, all_count=True))
    if problems:
        raise InputError(few(problems))
    if not found:
        raise InputError(f"{where}: no such files")
    return found


def _is_number(token: re.Match[str]) -> bool:
    return split_token(token)[1].endswith("d")


def _wildcards(pattern: str) -> str:
    """The pattern as the shell would have it."""
    return "".join(
        text.replace("[", "[[]") if token is None else "*" if token[1] else token[0][0]
        for text, token in _pieces(pattern)
    )


def _expression(pattern: str, more: str) -> re.Pattern[str]:
    """The pattern as a regular expression; a placeholder that returns must have the same value."""
    seen: set[str] = set()
    parts = []
    for text, token in _pieces(pattern):
        if token is None:
            parts.append(re.escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
        elif token[1] is None:
            parts.append(re.escape(token[0][0]))
        else:
            name = split_token(token)[0]
            kind = r"\d" if _is_number(token) else "[^/]"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{kind}{more})")
            seen.add(name)
    return re.compile("".join(parts))


def _pieces(pattern: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Plain texts and tokens, in turn."""
    end = 0
    for token in TOKEN.finditer(pattern):
        yield pattern[end : token.start()], None
        yield "", token
        end = token.end()
    yield pattern[end:], None


def _tabled(path: Path) -> list[Found]:
    """The rows of a CSV or ECSV table."""
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv"}
    where = f"exposures.table: {path}"
    if path.suffix.lower() not in formats:
        raise InputError(f"{where}: expected a file name that ends in .csv or .ecsv")
    from astropy.table import Table

    # As text: a CSV file's 007 is not the number 7.
    options: dict[str, Any] = {"converters": {"*": str}} if path.suffix.lower() == ".csv" else {}
    try:
        table = Table.read(path, format=formats[path.suffix.lower()], **options)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except Exception as error:  # astropy has many ways to say that a table is none
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: not a readable table ({first})") from None
    rows = list(zip(*(table[name].tolist() for name in table.colnames), strict=True))
    if not rows:
        raise InputError(f"{where}: no rows")
    found = []
    for i, row in enumerate(rows, 1):
        values = {}
        for name, value in zip(table.colnames, row, strict=True):
            try:
                values[name] = as_value(value)
            except PydanticCustomError:
                continue  # an empty cell matters only if the template asks for it
        found.append(Found(values, f"{path.name} row {i}"))
    return found
