"""The desktop's IPC: what a tray or a command may ask of the daemon beside it, and its answers.

One JSON object a line, each way; `docs/ipc.md` describes it. A request has an id and a command and
is answered with that id; what nobody asked for is an event.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, CtllmError
from ctllm.ipc.messages import PolicyName

PROTOCOL_VERSION = 1
#: Where a daemon tells how it is found: a `Where`, below its state folder.
ADDRESS_FILE = ("desktop", "ipc.json")
#: Most bytes of a request's line, and of one by somebody who has not yet shown that he may ask.
MAX_LINE = 1024 * 1024
MAX_UNAUTHENTICATED_LINE = 4096
#: Most bytes of a line that the daemon sends: it names some thousand models.
MAX_RESPONSE_LINE = 8 * 1024 * 1024

RequestId = int | Annotated[str, Meta(max_length=64)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command"):
    id: RequestId


class Auth(_Request, frozen=True, tag="AUTH"):
    """Shows that the client can read the secret; both in hexadecimal digits."""

    nonce: Annotated[str, Meta(pattern="^[0-9a-f]{32,128}$")]
    proof: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class StatusRequest(_Request, frozen=True, tag="STATUS"):
    """How everything is."""


class Subscribe(_Request, frozen=True, tag="SUBSCRIBE"):
    """The same, and from now on an event whenever it changes."""


class Show(_Request, frozen=True, tag="SHOW"):
    """Open the chat page."""


class Hide(_Request, frozen=True, tag="HIDE"):
    """Hide its window."""


class Settings(_Request, frozen=True, tag="SETTINGS"):
    """Open the page's settings."""


class Quit(_Request, frozen=True, tag="QUIT"):
    """End the daemon, once the answers under way are whole or `seconds` are over."""

    seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0


class Prefer(_Request, frozen=True, tag="PREFER"):
    """Where requests of this machine's apps go from now on."""

    policy: PolicyName = msgspec.field(name="preference")


class Login(_Request, frozen=True, tag="LOGIN"):
    """Sign in with a link."""

    link: Annotated[str, Meta(max_length=2048)]


class Logout(_Request, frozen=True, tag="LOGOUT"):
    """Sign out, here and at the cloud."""


class Logs(_Request, frozen=True, tag="LOGS"):
    """The last `lines` of the daemon's log, and the following ones as events."""

    lines: Annotated[int, Meta(ge=0, le=1000)] = 100
    follow: bool = False


class About(_Request, frozen=True, tag="ABOUT"):
    """What this is."""


Request = (
    Auth | StatusRequest | Subscribe | Show | Hide | Settings | Quit | Prefer | Login | Logout
    | Logs | About
)  # fmt: skip
COMMANDS = tuple(
    str(kind.__struct_config__.tag)
    for kind in Request.__args__  # in the order of the documents
)


class Hello(msgspec.Struct, frozen=True):
    """What the daemon says first. With an empty challenge the client is known already."""

    protocol: int
    version: str
    challenge: str


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: `code` is for programs and never changes."""

    code: str
    message: str


class Proof(msgspec.Struct, frozen=True):
    """The daemon's own, in answer to AUTH."""

    proof: str


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """To one request; `id` is null where the request's could not be read."""

    id: RequestId | None
    ok: bool
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorDetail | None = None


class Event(msgspec.Struct, frozen=True):
    """What nobody asked for: hello, status, log, notice, quitting or error."""

    event: str
    data: msgspec.Raw


class DaemonAddress(msgspec.Struct, frozen=True):
    """How a daemon is found: a file in its state folder, which its user alone can read."""

    port: int
    secret: str
    pid: int
    socket: str = ""


_REQUEST: Any = Request


class _LooseRequest(msgspec.Struct):
    id: Any = None
    command: Any = None


def parse_request(line: bytes) -> Request:
    """Read one line; raises BadRequest with a sentence."""
    try:
        found: Request = decode_json(line, _REQUEST)
    except InvalidJson as error:
        raise BadRequest(_explain_invalid(line, error)) from error
    return found


def parse_request_id(line: bytes) -> RequestId | None:
    """The id of a line that may be nothing else, or None."""
    try:
        named = decode_json(line, _LooseRequest)
        found: RequestId | None = msgspec.convert(named.id, RequestId | None)
    except ValueError:
        return None
    return found


def _explain_invalid(line: bytes, error: Exception) -> str:
    try:
        named = decode_json(line, _LooseRequest)
    except InvalidJson:
        return "a line must be one JSON object with an id and a command"
    if not isinstance(named.command, str) or named.command not in COMMANDS:
        shown = named.command if isinstance(named.command, str) else ""
        return f"unknown command {shown[:40]!r}; there are {', '.join(COMMANDS)}"
    return f"{named.command}: {error}"


def encode_request(request: Request) -> bytes:
    """A request as it is sent."""
    return msgspec.json.encode(request) + b"\n"


def encode_response(id: RequestId | None, data: object) -> bytes:
    """An answer with `data`."""
    return msgspec.json.encode(Response(id, True, msgspec.Raw(msgspec.json.encode(data)))) + b"\n"


def encode_error(id: RequestId | None, error: CtllmError) -> bytes:
    """An answer that says what went wrong."""
    return (
        msgspec.json.encode(Response(id, False, error=ErrorDetail(error.code, error.message)))
        + b"\n"
    )


def encode_event(event: str, data: object) -> bytes:
    """An event."""
    return msgspec.json.encode(Event(event, msgspec.Raw(msgspec.json.encode(data)))) + b"\n"


def parse_message(line: bytes) -> Response | Event:
    """What the daemon says; raises BadRequest for what is neither."""
    kinds: Sequence[Any] = (Event, Response)
    for kind in kinds:
        try:
            return decode_json(line, kind)  # type: ignore[no-any-return]
        except InvalidJson:
            continue
    raise BadRequest("that is no ctllm desktop: what it says makes no sense")


def compute_proof(
    secret: str, role: Literal["client", "daemon"], challenge: str, nonce: str
) -> str:
    """What shows that `who` knows the secret, to whoever sent the other of the two values."""
    words = f"ctllm-ipc-{role} {challenge} {nonce}".encode()
    return hmac.digest(bytes.fromhex(secret), words, "sha256").hex()
