"""What is wrong with a configuration, in one sentence for each key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from ..system.text import nearest

SIMULATION_KEYS = frozenset({"READS", "CNORM", "NO_AMP33", "EXTRACT_REF", "SEED"})
"""Top-level keys that only the simulation half of romanimpreprocess reads."""


def expected(what: str) -> PydanticCustomError:
    """An error that reads "KEY is VALUE, expected ...", to be raised by a validator."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def problem(what: str) -> PydanticCustomError:
    """An error that reads "KEY: ...", to be raised by a validator."""
    return PydanticCustomError("plainly", "{what}", {"what": what})


def sentences(error: ValidationError, models: Mapping[str, type[BaseModel]]) -> list[str]:
    """What is wrong, one line for each key.

    Parameters
    ----------
    error : ValidationError
        From the validation of one of the `models`.
    models : mapping of str to model
        The model of each block of keys by its dotted name; the top level is ``""``. Suggestions
        for unknown keys come from them.

    Returns
    -------
    list of str
    """
    errors = error.errors(include_url=False)
    near: dict[str, str] = {}
    for item in errors:
        if item["type"] == "extra_forbidden":
            near[_dotted(item["loc"])] = _suggestion(item["loc"], models)
    lines = []
    for item in errors:
        key = _dotted(item["loc"])
        if key in near:
            lines.append(_unknown(key, near[key], item["loc"], models))
        elif item["type"] in ("conflicts", "twice"):
            lines += item["ctx"]["problems"]
        elif item["type"] != "missing" or key not in near.values():
            lines.append(_sentence(key, item))
    return lines


def _dotted(loc: Iterable[int | str]) -> str:
    """``("NOISE", "LAYER", 0)`` as ``NOISE.LAYER[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".").removesuffix(".[key]")


def _sentence(key: str, item: Any) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return f"required key {key} is missing"
        case "plainly":
            return f"{key}: {item['msg']}"
        case "invalid_key":
            return f"{key}: a key must be text; write it in quotes"
        case "expected":
            expected = item["msg"]
        case "bool_type" | "bool_parsing":
            expected = "true or false"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            expected = "a whole number"
        case "float_type" | "float_parsing":
            expected = "a number"
        case "finite_number":
            expected = "a finite number"
        case "greater_than":
            expected = f"a number larger than {context['gt']:g}"
        case "greater_than_equal":
            whole = isinstance(context["ge"], int)
            expected = f"a {'whole ' if whole else ''}number from {context['ge']:g} up"
        case "literal_error":
            expected = context["expected"]
        case "path_type":
            expected = "a path"
        case "string_type":
            expected = "text"
        case "list_type":
            expected = "a list"
        case "too_short":
            expected = f"at least {context['min_length']} entry"
        case "model_type" | "dict_type" | "model_attributes_type":
            expected = "a mapping of keys to values" + (" or crds" if key == "CALDIR" else "")
        case _:
            expected = item["msg"]
    if item["input"] is None:
        return f"{key} is empty, expected {expected}"
    return f"{key} is {_shown(item['input'])}, expected {expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe_value(value: Any) -> str:
    """A value as messages show it."""
    return "a list" if isinstance(value, list) else _shown(value)


def _unknown(
    key: str, near: str, loc: tuple[int | str, ...], models: Mapping[str, type[BaseModel]]
) -> str:
    if key in SIMULATION_KEYS:
        hint = "; the seed of the noise is NOISE.SEED" if key == "SEED" else ""
        return (
            f"key {key} is known to romanimpreprocess's sim_to_isim "
            f"but not used by roman-dask-l2{hint}"
        )
    if near:
        return f"unknown key {key}, did you mean {near!r}?"
    block = ".".join(str(part) for part in loc[:-1])
    known = ", ".join(models[block].model_fields)
    return f"unknown key {key}; known{f' in {block}' if block else ''} are {known}"


def _suggestion(loc: tuple[int | str, ...], models: Mapping[str, type[BaseModel]]) -> str:
    """The known key that was probably meant, dotted; empty if none is near."""
    *outer, key = (str(part) for part in loc)
    if not outer and key in SIMULATION_KEYS:
        return ""
    block = ".".join(outer)
    prefix = f"{block}." if block else ""
    here = {name: f"{prefix}{name}" for name in models[block].model_fields}
    elsewhere: dict[str, str] = {}
    for other, model in models.items():
        for name in model.model_fields if other != block else ():
            elsewhere.setdefault(name, f"{other}.{name}" if other else name)
    # The same word in another block is a likelier mistake than a similar word in this one, which
    # is likelier than a similar word in another block.
    for candidates, cutoff in ((here, 1.0), (elsewhere, 1.0), (here, 0.6), (elsewhere, 0.8)):
        if near := nearest(key, candidates, cutoff):
            return candidates[near]
    return ""
