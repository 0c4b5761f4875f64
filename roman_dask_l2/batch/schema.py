"""The JSON Schema of campaign files, from the models that check them."""

from __future__ import annotations

import copy
from typing import Any

from ..config.schema import DIALECT, allow_empty, config_schema, either, schema_blocks

_TEXT = {"type": "string", "pattern": r"\{.+\}"}
"""A text with a placeholder."""


def campaign_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a campaign file, whose template is a configuration with
    placeholders."""
    from .campaign import CampaignFile

    schema = CampaignFile.model_json_schema()
    for block in schema_blocks(schema):
        allow_empty(block)
    template = copy.deepcopy(config_schema())
    for block in schema_blocks(template):
        block.pop("required", None)  # IN, OUT and NOISE.SEED may come from the campaign
        for name, value in block["properties"].items():
            block["properties"][name] = either(value, _TEXT)
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
            properties["exposures"] = either(properties["exposures"], kind)
    return {
        "$schema": DIALECT,
        **schema,
        "title": "roman-dask-l2 campaign",
        "description": "Exposures that are calibrated with one template of a configuration.",
    }
