"""What all blocks of the configuration share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..steps.registry import find_step


def step_default(step: str, parameter: str) -> Any:
    """A key whose default is that of a step's parameter: it stands in one place.

    The step is imported when a configuration is made, not before.
    """

    def default() -> Any:
        return find_step(step, "").params.model_fields[parameter].default

    return Field(default_factory=default)


def tidy(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """In the JSON Schema: descriptions on one line, no titles (pydantic's would be "Ipc4D"), and
    defaults that come from elsewhere."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, key in schema["properties"].items():
        key["description"] = " ".join(key["description"].split())
        key.pop("title", None)
        field = fields[name]
        if field.default_factory is not None:
            value = field.get_default(call_default_factory=True)
            key["default"] = (
                value.model_dump(mode="json") if hasattr(value, "model_dump") else value
            )


class Block(BaseModel):
    """What all blocks of the configuration share."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=tidy
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        """``SKYORDER:`` with nothing after it means the same as no such line."""
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        return {
            key: value
            for key, value in data.items()
            if value is not None or key not in fields or fields[key].is_required()
        }
