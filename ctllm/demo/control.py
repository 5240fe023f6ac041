"""The stand-in scripted over HTTP, for tests and benchmarks in which it is another process.

`POST /standin/scripts` takes `{"path": "/api/chat", "contains": "…", "times": 1, "script": {…}}`:
path, text in the request's body and number of uses may be left out. `DELETE /standin/scripts`
forgets all scripts, `GET /standin/requests` lists the records, `DELETE /standin/requests` forgets
them.
"""

from __future__ import annotations

import msgspec

from ctllm.demo.answer import Whole
from ctllm.demo.records import Record, Records
from ctllm.demo.request_parser import read
from ctllm.demo.script import Script, Scripts, Where
from ctllm.errors import MethodNotAllowed, NotFound

PREFIX = "/standin/"


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""
    contains: str = ""
    times: int | None = None
    script: Script = Script()

    @property
    def where(self) -> Where:
        """The path alone when that is all, so that the script may begin before the body is read."""
        if self.path and not self.contains:
            return self.path
        return self._fits

    def _fits(self, record: Record) -> bool:
        body = record.body or b""
        return (not self.path or record.path == self.path) and self.contains.encode() in body


def answer(scripts: Scripts, records: Records, method: str, path: str, body: bytes) -> Whole:
    """Do what a control request asks; raises BadRequest, NotFound or MethodNotAllowed."""
    match method, path.removeprefix(PREFIX):
        case "POST", "scripts":
            order = read(body, _Order)
            scripts.add(order.where, order.script, order.times)
        case "DELETE", "scripts":
            scripts.clear()
        case "GET", "requests":
            return Whole.of([record.as_json() for record in records])
        case "DELETE", "requests":
            records.clear()
        case _, "scripts":
            raise MethodNotAllowed("405 method not allowed", allow="POST, DELETE")
        case _, "requests":
            raise MethodNotAllowed("405 method not allowed", allow="GET, DELETE")
        case _:
            raise NotFound("the stand-in knows /standin/scripts and /standin/requests")
    return Whole(status=204)
