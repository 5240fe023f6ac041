"""An instance of a JSON Schema, for structured answers: plain, small and of the right shape."""

from __future__ import annotations

from typing import Any

_DEPTH = 12
_PLAIN: dict[str, Any] = {"integer": 0, "number": 0.0, "boolean": False, "null": None}


def example_of(schema: dict[str, Any], text: str) -> Any:
    """Make a value that fits the schema, in which every free string is `text`."""
    return _value(schema, text, schema.get("$defs") or {}, _DEPTH)


def _value(schema: Any, text: str, named: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or not depth:
        return None
    if "$ref" in schema:
        return _value(named.get(str(schema["$ref"]).rpartition("/")[2]), text, named, depth - 1)
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "anyOf", "oneOf", "allOf"):
        if schema.get(key):
            first = schema[key][0]
            return first if key == "enum" else _value(first, text, named, depth - 1)
    return _typed(schema, text, named, depth)


def _typed(schema: dict[str, Any], text: str, named: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {name: _value(each, text, named, depth - 1) for name, each in properties.items()}
    if kind == "array":
        least = int(schema.get("minItems") or 0)
        return [_value(schema.get("items"), text, named, depth - 1) for _ in range(least)]
    if kind in ("integer", "number") and "minimum" in schema:
        return schema["minimum"]
    return _PLAIN.get(str(kind), text)
