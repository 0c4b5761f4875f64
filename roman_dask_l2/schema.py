"""JSON Schemas of the files that users write, from the models that check them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from .config import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string", "pattern": r"\{.+\}"}
"""A text with a placeholder."""


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration.

    It knows keys, types, ranges, defaults and descriptions. Files that are missing or do not fit
    are found by ``validate``.
    """
    schema = Config.model_json_schema()
    for block in _blocks(schema):
        _may_be_empty(block)
    return {
        "$schema": DIALECT,
        **schema,
        "title": "roman-dask-l2 configuration",
        "description": "Configuration of one exposure; relative paths start at its folder.",
    }


def campaign_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a campaign file, whose template is a configuration with
    placeholders."""
    from .batch.campaign import CampaignFile

    schema = CampaignFile.model_json_schema()
    for block in _blocks(schema):
        _may_be_empty(block)
    template = copy.deepcopy(config_schema())
    for block in _blocks(template):
        block.pop("required", None)  # IN, OUT and NOISE.SEED may come from the campaign
        for name, value in block["properties"].items():
            block["properties"][name] = _or(value, _TEXT)
    definitions = schema.setdefault("$defs", {})
    definitions |= template.pop("$defs")
    template.pop("$schema")
    definitions["Template"] = template
    properties = schema["properties"]
    properties["template"] = {
        "$ref": "#/$defs/Template", "description": properties["template"]["description"],
    }  # fmt: skip
    listed = definitions["Exposures"]["properties"]["list"]
    for kind in listed["anyOf"]:  # numbers are taken as they are written
        if kind.get("type") == "array":
            kind["items"]["additionalProperties"] = {"type": ["string", "number"]}
            properties["exposures"] = _or(properties["exposures"], kind)
    return {
        "$schema": DIALECT,
        **schema,
        "title": "roman-dask-l2 campaign",
        "description": "Exposures that are calibrated with one template of a configuration.",
    }


def _blocks(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas of all mappings with fixed keys."""
    for block in (schema, *schema.get("$defs", {}).values()):
        if "properties" in block:
            yield block


def _may_be_empty(block: dict[str, Any]) -> None:
    """A key with nothing after it is the same as none."""
    for name, value in block["properties"].items():
        if name not in block.get("required", ()):
            block["properties"][name] = _or(value, {"type": "null"})


def _or(value: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`value` or `other`; what describes the key stays outside."""
    outer: dict[str, Any] = {key: value[key] for key in ("description", "default") if key in value}
    inner = {key: item for key, item in value.items() if key not in outer}
    kinds = inner.get("anyOf", [inner])
    return {"anyOf": [*kinds, *([] if other in kinds else [other])], **outer}
