"""The reference of the cloud's own routes, from its OpenAPI description.

The renderers that exist do not fit: Redoc and Swagger UI need inline styles, which the policy of
the site forbids; sphinxcontrib-openapi leaves out the bodies of OpenAPI 3.1; essentials-openapi
writes MkDocs' dialect, and examples that it invents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import msgspec

from site_builder.reference.markdown import code, escape, join, table

Json = Mapping[str, Any]

_METHODS = ("get", "put", "post", "delete", "patch", "head")
_SCHEMES = {"bearer": "a bearer token", "cookie": "the cookie", "refresh": "a refresh token"}
#: Limits of a schema, and how they are shown.
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches `{}`",
}


def render_management_api() -> str:
    """Return the description of every route, of its schemas and of the ways to authenticate."""
    description = files("ctllm.cloud").joinpath("openapi.json").read_bytes()
    return render_openapi(msgspec.json.decode(description))


def render_openapi(document: Json) -> str:
    """Return the Markdown of an OpenAPI 3.1 document of the kind that ctllm has."""
    return _Document(document).render()


class _Document:
    """An OpenAPI document. References in it begin with `#/`."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def render(self) -> str:
        return join(
            escape(self._document["info"].get("description", "")),
            *self._render_tags(),
            *self._render_security(),
            "## Schemas",
            "Schemas that more than one route uses.",
            *self._render_schemas(),
        )

    def _render_tags(self) -> Iterator[str]:
        for tag in self._document["tags"]:
            yield f"## {tag['name'].capitalize()}"
            yield escape(tag["description"])
            for method, path, operation in self._operations(tag["name"]):
                yield self._render_operation(method, path, operation)

    def _operations(self, tag: str) -> Iterator[tuple[str, str, Json]]:
        for path, item in self._document["paths"].items():
            for method in _METHODS:
                operation = item.get(method)
                if operation and tag in operation["tags"]:
                    parameters = [*item.get("parameters", ()), *operation.get("parameters", ())]
                    yield method, path, {**operation, "parameters": parameters}

    def _render_operation(self, method: str, path: str, operation: Json) -> str:
        return join(
            f"({operation['operationId'].lower()})=\n### {code(f'{method.upper()} {path}')}",
            f"**{escape(operation['summary'])}.** {escape(operation.get('description', ''))}",
            _render_needs(operation.get("security", ())),
            self._render_parameters([self._resolve(each) for each in operation["parameters"]]),
            self._render_body(operation.get("requestBody")),
            self._render_responses(operation["responses"]),
        )

    def _render_parameters(self, parameters: Sequence[Json]) -> str:
        rows = [
            (
                code(each["name"]),
                each["in"],
                self._describe(each["schema"]),
                escape(each.get("description", "")),
            )
            for each in parameters
        ]
        return table(("Parameter", "In", "Type", "Meaning"), rows) if rows else ""

    def _render_body(self, body: Json | None) -> str:
        if body is None:
            return ""
        media, content = next(iter(self._resolve(body)["content"].items()))
        return self._render_content(f"Request body, {code(media)}", content.get("schema", {}))

    def _render_responses(self, responses: Json) -> str:
        resolved = {status: self._resolve(each) for status, each in responses.items()}
        rows = [
            (
                f"{status} {HTTPStatus(int(status)).phrase}" if status.isdigit() else status,
                escape(each["description"]) + self._list_codes(each),
                ", ".join(code(name) for name in each.get("headers", ())),
            )
            for status, each in resolved.items()
        ]
        bodies = [
            self._render_content(f"Body of {status}, {code(media)}", content["schema"])
            for status, each in resolved.items()
            if status.startswith("2")
            for media, content in each.get("content", {}).items()
            if "schema" in content
        ]
        return join(table(("Response", "Meaning", "Headers"), rows), *bodies)

    def _list_codes(self, response: Json) -> str:
        """Return the error codes of a response, as the end of its description."""
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        error = self._resolve(self._resolve(schema).get("properties", {}).get("error", {}))
        codes = error.get("properties", {}).get("code", {}).get("enum", ())
        return " Code: " + ", ".join(map(code, codes)) + "." if codes else ""

    def _render_content(self, title: str, schema: Json) -> str:
        """Return a table of the fields of a body, one for each variant."""
        if "$ref" in schema:
            return f"{title}: {self._describe(schema)}"
        variants = schema.get("oneOf", (schema,))
        parts = [self._render_fields(self._resolve(each)) for each in variants]
        if not any(parts):
            return f"{title}: {self._describe(schema)}"
        return join(f"{title}:", "\n\nor:\n\n".join(part for part in parts if part))

    def _render_fields(self, schema: Json) -> str:
        required = schema.get("required", ())
        rows = [
            (
                code(name),
                self._describe(field) + ("" if name in required else ", optional"),
                escape(self._resolve(field).get("description", "")),
            )
            for name, field in schema.get("properties", {}).items()
        ]
        return table(("Field", "Type", "Meaning"), rows) if rows else ""

    def _render_schemas(self) -> Iterator[str]:
        for name, schema in self._document["components"]["schemas"].items():
            described = (
                "" if schema.get("properties") or "oneOf" in schema else self._describe(schema)
            )
            yield join(
                f"(schema-{name.lower()})=\n### {name}",
                escape(schema.get("description", "")),
                described and f"Type: {described}.",
                "" if described else self._render_variants(schema),
            )

    def _render_variants(self, schema: Json) -> str:
        variants = [self._resolve(each) for each in schema.get("oneOf", (schema,))]
        return "\n\nor:\n\n".join(filter(None, map(self._render_fields, variants)))

    def _render_security(self) -> Iterator[str]:
        yield "## Authentication"
        rows = []
        for name, scheme in self._document["components"]["securitySchemes"].items():
            header = "Authorization: Bearer" if scheme["type"] == "http" else scheme["name"]
            where = "header" if scheme["type"] == "http" else scheme["in"]
            described = escape(scheme.get("description", ""))
            rows.append((_SCHEMES.get(name, name), f"{where} {code(header)}", described))
        yield table(("Way", "Where", "What it is"), rows)

    def _describe(self, schema: Json) -> str:
        """Return the type of a value with its limits, in one line."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f"[{name}](#schema-{name.lower()})"
        if "oneOf" in schema:
            return " or ".join(self._describe(each) for each in schema["oneOf"])
        if "const" in schema:
            return code(_to_json(schema["const"]))
        if "enum" in schema:
            return ", ".join(code(_to_json(value)) for value in schema["enum"])
        limits = [text.format(schema[name]) for name, text in _LIMITS.items() if name in schema]
        return ", ".join([self._describe_type(schema), *limits])

    def _describe_type(self, schema: Json) -> str:
        kinds = schema.get("type", "any")
        text = " or ".join([kinds] if isinstance(kinds, str) else kinds)
        if "array" in text and "items" in schema:
            return text.replace("array", f"array of {self._describe(schema['items'])}")
        if "object" in text and schema.get("properties"):
            return f"{text} of {', '.join(code(name) for name in schema['properties'])}"
        if "object" in text and isinstance(schema.get("additionalProperties"), dict):
            return f"{text}, values: {self._describe(schema['additionalProperties'])}"
        return text

    def _resolve(self, value: Json) -> Json:
        """Return what a reference stands for, or the value itself."""
        if "$ref" not in value:
            return value
        found: Any = self._document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        resolved: Json = found
        return resolved


def _render_needs(security: Sequence[Json]) -> str:
    ways = [" and ".join(_SCHEMES.get(name, name) for name in each) for each in security]
    needs = [way or "nothing" for way in ways]
    return f"Needs {' or '.join(needs)}; see [authentication](#authentication)." if needs else ""


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
