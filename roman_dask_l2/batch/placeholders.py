"""Placeholders: ``{name}`` or ``{name:02d}`` in the texts of a template, and in names of files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TOKEN = re.compile(r"\$\{[^}]*\}|\{\{|\}\}|\{([^{}]*)\}|[{}]")
"""In a text: an environment variable, a doubled brace, a placeholder, a brace that is neither."""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def split_token(token: re.Match[str]) -> tuple[str, str]:
    """Name and format of a placeholder."""
    name, _, how = token[1].partition(":")
    return name, how


def placeholders(value: Any) -> Iterator[str]:
    """Names of all placeholders in the texts of a template."""
    for text in _texts(value):
        for token in TOKEN.finditer(text):
            if token[1] is not None and not token[0].startswith("$"):
                yield split_token(token)[0]


def bad_texts(value: Any) -> Iterator[str]:
    """What is wrong with the placeholders, whatever their values."""
    for text in _texts(value):
        for token in TOKEN.finditer(text):
            if token[0] in ("{", "}"):
                yield f"{text!r}: a brace without its partner (write {{{{ or }}}} for a plain one)"
            elif token[1] is not None and not split_token(token)[0].isidentifier():
                yield f"{text!r}: {token[0]} is not a placeholder, expected {{name}}"


def fill(value: Any, values: Mapping[str, str]) -> Any:
    """A copy of a template with the placeholders in all its texts replaced.

    Raises
    ------
    ValueError
        If a value does not suit its format, as ``abc`` does not suit ``{sca:02d}``.
    """
    if isinstance(value, str):
        return TOKEN.sub(lambda token: _replacement(token, values), value)
    if isinstance(value, Mapping):
        return {key: fill(item, values) for key, item in value.items()}
    return [fill(item, values) for item in value] if isinstance(value, list | tuple) else value


def _replacement(token: re.Match[str], values: Mapping[str, str]) -> str:
    if token[0] in ("{{", "}}"):
        return token[0][0]
    if token[1] is None:
        return token[0]
    name, how = split_token(token)
    value = values[name]
    if not how:
        return value
    number = int(value) if re.fullmatch(r"[+-]?\d+", value) else None
    try:
        return format(value if how.endswith("s") or number is None else number, how)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, which does not suit {token[0]}") from None
