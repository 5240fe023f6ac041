"""Control of the fake Ollama over HTTP, for tests in which it is another process.

`POST /fake/scripts` takes `{"path": "/api/chat", "contains": "…", "times": 1, "script": {…}}`:
the path, the text in the body and the number of uses are optional. `DELETE /fake/scripts`
removes all scripts, `GET /fake/requests` lists the records, `DELETE /fake/requests` removes
them.
"""

from __future__ import annotations

import msgspec

from ctllm.demo.request_parser import decode_request
from ctllm.demo.response import CompleteResponse
from ctllm.errors import MethodNotAllowed, NotFound
from tests.fake_ollama.records import Record, Records
from tests.fake_ollama.script import Script, Scripts, Where

PREFIX = "/fake/"


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""
    contains: str = ""
    times: int | None = None
    script: Script = Script()

    @property
    def where(self) -> Where:
        """The path if there is nothing else, so that the script applies before the body."""
        if self.path and not self.contains:
            return self.path
        return self._fits

    def _fits(self, record: Record) -> bool:
        body = record.body or b""
        return (not self.path or record.path == self.path) and self.contains.encode() in body


def respond(
    scripts: Scripts, records: Records, method: str, path: str, body: bytes
) -> CompleteResponse:
    """Execute a control request. Raises BadRequest, NotFound or MethodNotAllowed."""
    match method, path.removeprefix(PREFIX):
        case "POST", "scripts":
            order = decode_request(body, _Order)
            scripts.add(order.where, order.script, order.times)
        case "DELETE", "scripts":
            scripts.clear()
        case "GET", "requests":
            return CompleteResponse.json([record.as_json() for record in records])
        case "DELETE", "requests":
            records.clear()
        case _, "scripts":
            raise MethodNotAllowed("405 method not allowed", allow="POST, DELETE")
        case _, "requests":
            raise MethodNotAllowed("405 method not allowed", allow="GET, DELETE")
        case _:
            raise NotFound("the fake Ollama knows /fake/scripts and /fake/requests")
    return CompleteResponse(status=204)
