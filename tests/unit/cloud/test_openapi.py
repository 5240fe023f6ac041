"""`ctllm/cloud/openapi.json`: the description of the API is valid and complete."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jsonschema_rs
from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__, errors

DOCUMENT: dict[str, Any] = json.loads(
    resources.files("ctllm.cloud").joinpath("openapi.json").read_bytes()
)
CONTRACT = {
    "post /ctllm/session": "201 400 401 403 413 415 429",
    "get /ctllm/session": "200 401 403 429",
    "delete /ctllm/session": "204 403",
    "get /ctllm/login": "302 303",
    "get /ctllm/callback": "303",
    "post /ctllm/session/token": "200 400 401 403 413 415 429",
    "post /ctllm/session/invite": "201 401 403 429",
    "post /ctllm/session/introspect": "200 400 401 403 413 415 429",
    "post /ctllm/session/pairing": "201 401 403 429",
    "get /ctllm/page": "200",
    "get /ctllm/proxy": "200 401 403 429",
    "put /ctllm/proxy": "200 401 403 429 503",
    "post /ctllm/proxy": "200 401 403 429 503",
    "delete /ctllm/proxy": "204 401 403 429",
    "post /ctllm/tunnel/authorization": "200 401 403 429",
    "get /ctllm/desktops": "200 401 403 429 503",
    "put /ctllm/desktops/{desktop}/keys": "200 400 401 403 404 413 415 429",
    "delete /ctllm/desktops/{desktop}/keys": "200 401 403 404 429",
    "get /ctllm/keys": "200 401 403 429",
    "post /ctllm/keys": "201 400 401 403 404 409 413 415 429",
    "delete /ctllm/keys/{key}": "204 401 403 404 409 429 503",
    "get /ctllm/machines": "200 401 403 429",
    "post /ctllm/machines": "201 400 401 403 404 413 415 429 503",
    "post /ctllm/machines/introspect": "200 400 401 403 404 413 415 429",
    "post /ctllm/machines/decline": "204 400 401 403 404 413 415 429",
    "patch /ctllm/machines/{machine}": "200 400 401 403 404 413 415 429 503",
    "delete /ctllm/machines/{machine}": "204 401 403 404 429",
    "get /ctllm/desktop/{resource}": "200 401 403 404 429 503",
    "get /ctllm/exchanges/{exchange}": "200 401 403 404 410 429 503",
    "get /ctllm/providers": "200",
    "get /ctllm/openapi.json": "200",
    "get /health": "200",
    "get /ctllm/health/stream": "200 503",
}


def _walk(value: Any) -> list[dict[str, Any]]:
    """Give every object in `value`, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in _walk(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in _walk(item))]


def _accepts(schema: str, value: object) -> bool:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return jsonschema_rs.is_valid(whole, value)


class OpenApiTests(SynchronousTestCase):
    """The OpenAPI document."""

    def test_describes_every_endpoint_with_every_status(self) -> None:
        operations = {
            f"{method} {path}": " ".join(operation["responses"])
            for path, item in DOCUMENT["paths"].items()
            for method, operation in item.items()
            if method != "parameters"
        }
        self.assertEqual(operations, CONTRACT)

    def test_references_resolve_and_components_are_used(self) -> None:
        used = {found["$ref"] for found in _walk(DOCUMENT) if "$ref" in found}
        components = DOCUMENT["components"]
        there = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "responses")
            for name in components[kind]
        }
        self.assertEqual(used, there)

    def test_schemas_are_valid_and_closed(self) -> None:
        for name, schema in DOCUMENT["components"]["schemas"].items():
            jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]})
            for found in _walk(schema):
                if "properties" in found:
                    self.assertIs(found["additionalProperties"], False, name)

    def test_error_codes_have_their_statuses(self) -> None:
        for name, response in DOCUMENT["components"]["responses"].items():
            shape = response["content"]["application/json"]["schema"]["properties"]["error"]
            for code in shape["properties"]["code"]["enum"]:
                status = str(errors.error_from_wire(code, "").status)
                told = [
                    operation["responses"].get(status, {}).get("$ref", "").rpartition("/")[2]
                    for operation in _walk(DOCUMENT["paths"])
                    if "responses" in operation and status in operation["responses"]
                ]
                self.assertEqual(set(told), {name}, code)

    def test_401_has_www_authenticate_and_429_and_503_retry_after(self) -> None:
        responses = DOCUMENT["components"]["responses"]
        required = {
            name: [key for key, header in response.get("headers", {}).items() if header["required"]]
            for name, response in responses.items()
        }
        self.assertEqual(required.pop("Unauthenticated"), ["WWW-Authenticate"])
        for late in ("TooManyRequests", "Unavailable"):
            self.assertEqual(required.pop(late), ["Retry-After"])
        self.assertEqual(set(map(tuple, required.values())), {()})

    def test_lists_the_operations_that_need_no_token(self) -> None:
        free = {
            operation["operationId"]
            for operation in _walk(DOCUMENT["paths"])
            if "operationId" in operation and operation["security"] != [{"bearer": []}]
        }
        ways = {
            "openSession",
            "introspectLink",
            "renewToken",
            "closeSession",
            "beginLogin",
            "finishLogin",
        }
        self.assertEqual(
            free,
            ways
            | {"readHealth", "probeStream", "readPageServer", "readDescription", "listProviders"},
        )

    def test_body_schemas_have_the_limits_of_the_code(self) -> None:
        secret = "A" * 43
        key = {"id": "0f" * 8, "salt": "0f" * 16, "digest": "0f" * 32}
        full = {
            **key, "scope": "manage", "expires": 2**52, "models": ["llama*"] * 16,
            "requests_per_minute": 1_000_000,
        }  # fmt: skip
        valid: list[tuple[str, object]] = [
            ("LoginRequest", {"invite": secret, "client": "browser"}),
            ("LoginRequest", {"provider_token": "e30.e30.c2ln", "client": "desktop"}),
            ("Link", {"invite": secret}),
            ("Renewal", {}),
            ("Renewal", {"refresh": f"ctllm-r-{secret}"}),
            ("KeyLease", {"keys": [full] * 100, "seconds": 600}),
            ("KeyLease", {"keys": [], "seconds": 10}),
        ]
        for schema, value in valid:
            self.assertTrue(_accepts(schema, value), schema)
        invalid: list[tuple[str, object]] = [
            ("LoginRequest", {"invite": secret}),
            ("LoginRequest", {"client": "desktop"}),
            ("LoginRequest", {"provider_token": "e30.e30.c2ln", "client": "browser"}),
            ("LoginRequest", {"provider_token": "a", "invite": secret, "client": "desktop"}),
            ("LoginRequest", {"provider_token": "a" * 8193, "client": "desktop"}),
            ("LoginRequest", {"invite": f"{secret}\n", "client": "browser"}),
            ("LoginRequest", {"invite": secret, "client": "tray"}),
            ("LoginRequest", {"invite": secret, "client": "browser", "more": 1}),
            ("Link", {"invite": secret, "client": "browser"}),
            ("Renewal", {"refresh": None}),
            ("Renewal", {"refresh": secret}),
            ("KeyLease", {"keys": [key] * 101, "seconds": 600}),
            ("KeyLease", {"keys": [], "seconds": 9}),
            ("KeyLease", {"keys": [], "seconds": 601}),
            *(
                ("KeyLease", {"keys": [{**key, **change}], "seconds": 600})
                for change in (
                    {"id": "0F" * 8},
                    {"salt": "0f"},
                    {"digest": "0F" * 32},
                    {"scope": "serve"},
                    {"expires": -1},
                    {"models": ["a b"]},
                    {"models": ["a"] * 17},
                    {"key": "k"},
                    {"requests_per_minute": -1},
                )
            ),
        ]
        for schema, value in invalid:
            self.assertFalse(_accepts(schema, value), (schema, value))

    def test_has_the_version_of_the_program(self) -> None:
        self.assertEqual(DOCUMENT["info"]["version"], __version__)
