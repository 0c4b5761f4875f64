"""Types of the configuration's values: paths, numbers, flags."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ..core import dq
from ..core.cells import CELLS, MAX_ORDER
from ..system.text import nearest
from .messages import expected, problem

_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""In a path: what would break lines of messages and logs, or cannot be written into a file."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def _expand(value: Any, info: ValidationInfo) -> Any:
    return resolve_path(value, (info.context or {}).get("base") or Path.cwd())


def resolve_path(value: Any, base: Path) -> Any:
    """Absolute path from text with ``~``, ``$NAME`` and ``${NAME}``."""
    if not isinstance(value, str | os.PathLike):
        return value
    text = str(value)
    if not text.strip() or "\0" in text:
        raise expected("a path")
    names = [bare or braced for bare, braced in _VARIABLE.findall(text)]
    if undefined := sorted({name for name in names if name not in os.environ}):
        # Left as it is, it would become a folder called "$SCRATCH" somewhere.
        raise problem(f"environment variable {', '.join(undefined)} in {text!r} is not defined")
    text = os.path.expanduser(_VARIABLE.sub(lambda m: os.environ[m[1] or m[2]], text))
    if text.startswith("~"):
        raise problem(f"there is no home directory for {text.split('/')[0]!r}")
    path = str(base / text)
    if _UNUSABLE.search(path):
        raise problem(f"{path!r} has a control character or is not UTF-8, expected a path")
    # What two slashes in front mean is left open by POSIX; for some programs a host follows.
    return Path(re.sub("^//+", "/", path))


def recipe_path(value: Any, info: ValidationInfo) -> Any:
    """A name stays a name; what looks like a file becomes a path."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise expected("the name of a recipe or a file")
    is_file = "/" in str(value) or os.sep in str(value) or str(value).endswith((".yaml", ".yml"))
    return _expand(value, info) if is_file else str(value)


def _asdf(path: Path) -> Path:
    if path.suffix != ".asdf":
        raise expected("a file name that ends in .asdf")
    return path


def no_bool(value: Any) -> Any:
    # `SKYORDER: False` would otherwise be 0, which subtracts a constant.
    if isinstance(value, bool):
        raise expected("a number")
    return value


def _flag(name: str) -> str:
    if name not in dq.PIXEL:
        near = nearest(name, dq.PIXEL)
        raise problem("unknown data-quality flag" + (f", did you mean {near!r}?" if near else ""))
    return name


def _growth(pixels: int) -> int:
    if pixels not in dq.GROWTHS:
        raise expected(f"one of {', '.join(map(str, dq.GROWTHS))}")
    return pixels


def _order(order: int) -> int:
    if not 0 <= order <= MAX_ORDER:
        raise expected(
            f"a whole number from 0 to {MAX_ORDER}, the greatest order that {CELLS} x {CELLS} "
            "cells can carry"
        )
    return order


FilePath = Annotated[Path, BeforeValidator(_expand)]
AsdfPath = Annotated[FilePath, AfterValidator(_asdf)]
Count = Annotated[int, Field(ge=0), BeforeValidator(no_bool)]
SkyOrder = Annotated[
    int,
    Field(json_schema_extra={"minimum": 0, "maximum": MAX_ORDER}),
    BeforeValidator(no_bool),
    AfterValidator(_order),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(no_bool)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(no_bool)]
Flag = Annotated[str, Field(json_schema_extra={"enum": [*dq.PIXEL]}), AfterValidator(_flag)]
Growth = Annotated[
    int,
    Field(json_schema_extra={"enum": [*dq.GROWTHS]}),
    BeforeValidator(no_bool),
    AfterValidator(_growth),
]
