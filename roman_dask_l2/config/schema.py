"""JSON Schemas of the files that users write, from the models that check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .model import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration.

    It knows keys, types, ranges, defaults and descriptions. Files that are missing or do not fit
    are found by ``validate``.
    """
    schema = Config.model_json_schema()
    for block in schema_blocks(schema):
        allow_empty(block)
    return {
        "$schema": DIALECT,
        **schema,
        "title": "roman-dask-l2 configuration",
        "description": "Configuration of one exposure; relative paths start at its folder.",
    }


def schema_blocks(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas of all mappings with fixed keys."""
    for block in (schema, *schema.get("$defs", {}).values()):
        if "properties" in block:
            yield block


def allow_empty(block: dict[str, Any]) -> None:
    """A key with nothing after it is the same as none."""
    for name, value in block["properties"].items():
        if name not in block.get("required", ()):
            block["properties"][name] = either(value, {"type": "null"})


def either(value: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`value` or `other`; what describes the key stays outside."""
    outer: dict[str, Any] = {key: value[key] for key in ("description", "default") if key in value}
    inner = {key: item for key, item in value.items() if key not in outer}
    kinds = inner.get("anyOf", [inner])
    return {"anyOf": [*kinds, *([] if other in kinds else [other])], **outer}
