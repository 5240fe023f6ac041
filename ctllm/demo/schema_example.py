"""A small instance of a JSON Schema, for structured replies."""

from __future__ import annotations

from ctllm.common.json_decoder import JsonObject

_MAX_DEPTH = 12
_DEFAULTS: JsonObject = {"integer": 0, "number": 0.0, "boolean": False, "null": None}


def example_of(schema: JsonObject, text: str) -> object:
    """Return a value that the schema allows, in which every unrestricted string is `text`."""
    return _value(schema, text, schema.get("$defs") or {}, _MAX_DEPTH)


def _value(schema: object, text: str, named: JsonObject, depth: int) -> object:
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


def _typed(schema: JsonObject, text: str, named: JsonObject, depth: int) -> object:
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
    return _DEFAULTS.get(str(kind), text)
