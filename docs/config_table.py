"""The table of configuration keys, written from the models so that it cannot drift."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from roman_dask_l2.batch.campaign import CampaignFile
from roman_dask_l2.batch.sources import Exposures
from roman_dask_l2.config.model import Config, blocks


def table() -> str:
    """MyST Markdown: one section for each block of keys, the required keys first."""
    schema = Config.model_json_schema()
    lines: list[str] = []
    for name, model in blocks().items():
        lines += [f"## {name}", "", *_said(model, schema)] if name else []
        lines += _keys(model, schema)
    growth = schema["properties"]["MASK"]["default"]
    lines += ["## MASK", "", "The default table:", "", "| flag | pixels masked |", "|---|---|"]
    lines += [f"| `{flag}` | {pixels} |" for flag, pixels in growth.items()]
    return "\n".join(lines) + "\n"


def campaign_table() -> str:
    """The same for campaign files."""
    schema = CampaignFile.model_json_schema()
    lines = [*_said(CampaignFile, schema), *_keys(CampaignFile, schema)]
    lines += ["### exposures", "", *_said(Exposures, schema), *_keys(Exposures, schema)]
    return "\n".join(lines) + "\n"


def _block(model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that is about `model`."""
    return schema["$defs"].get(model.__name__, schema)


def _said(model: type[BaseModel], schema: dict[str, Any]) -> list[str]:
    return [_one_line(_block(model, schema)["description"]), ""]


def _keys(model: type[BaseModel], schema: dict[str, Any]) -> list[str]:
    """The table of a model's keys, the required ones first."""
    block = _block(model, schema)
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = block.get("required", [])
    for key in sorted(block["properties"], key=lambda key: key not in required):
        prop = block["properties"][key]
        default = "required" if key in required else _default(prop, key)
        meaning = _one_line(prop["description"])
        lines.append(f"| `{key}` | {_kind(prop, schema)} | {default} | {meaning} |")
    return [*lines, ""]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _default(prop: dict[str, Any], key: str) -> str:
    value = prop.get("default")
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"[below](#{key.lower()})"
    if isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _kind(prop: dict[str, Any], schema: dict[str, Any]) -> str:
    """What kind of value a key takes, in words."""
    if "const" in prop:
        return f"`{prop['const']}`"
    if "enum" in prop:
        return " or ".join(f"`{value}`" for value in prop["enum"])
    if "anyOf" in prop:
        kinds = (_kind(kind, schema) for kind in prop["anyOf"] if kind.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in prop:
        return "block of keys"
    match prop.get("type"):
        case "string":
            return "path" if prop.get("format") == "path" else "text"
        case "integer":
            return "integer from 0 up" if prop.get("minimum") == 0 else "integer"
        case "number":
            return "number > 0" if prop.get("exclusiveMinimum") == 0 else "number"
        case "boolean":
            return "true or false"
        case "array":
            return f"list of {_kind(prop['items'], schema)}"
        case "object" if prop["additionalProperties"] is True:
            return "mapping"
        case "object" if "propertyNames" in prop:
            return f"flag: {_kind(prop['additionalProperties'], schema)}"
        case "object":
            return f"mapping to {_kind(prop['additionalProperties'], schema)}"
    raise ValueError(f"no words for {prop}")  # a new kind of key: add it above
