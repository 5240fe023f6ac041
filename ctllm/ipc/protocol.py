"""The IPC protocol between the desktop daemon and its clients, the tray and the commands.

Both ends send JSON objects, one a line. A request has an id and a command, and its response has the
same id; events have none. `docs/ipc.md` is the specification.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, CtllmError
from ctllm.ipc.messages import PolicyName

PROTOCOL_VERSION = 1
#: The file, below the state folder, in which a daemon writes its `DaemonAddress`.
ADDRESS_FILE = ("desktop", "ipc.json")
#: Bytes that the line of a request may have, and before authentication.
MAX_LINE = 1024 * 1024
MAX_UNAUTHENTICATED_LINE = 4096
#: Bytes that a line of the daemon may have: a status names some thousand models.
MAX_RESPONSE_LINE = 8 * 1024 * 1024

RequestId = int | Annotated[str, Meta(max_length=64)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command"):
    id: RequestId


class Auth(_Request, frozen=True, tag="AUTH"):
    """Prove that the client can read the secret. Both fields are hexadecimal digits."""

    nonce: Annotated[str, Meta(pattern="^[0-9a-f]{32,128}$")]
    proof: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class StatusRequest(_Request, frozen=True, tag="STATUS"):
    """Return the status."""


class Subscribe(_Request, frozen=True, tag="SUBSCRIBE"):
    """Return the status, and send an event whenever it changes."""


class Show(_Request, frozen=True, tag="SHOW"):
    """Open the chat page; with `local`, that of this machine and not that of the cloud."""

    is_local: bool = msgspec.field(default=False, name="local")


class Hide(_Request, frozen=True, tag="HIDE"):
    """Hide the window of the chat page."""


class Settings(_Request, frozen=True, tag="SETTINGS"):
    """Open the settings in the chat page."""


class Quit(_Request, frozen=True, tag="QUIT"):
    """Stop the daemon when no request is active, or after `seconds`."""

    seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0


class Prefer(_Request, frozen=True, tag="PREFER"):
    """Set the routing policy for requests of local apps."""

    policy: PolicyName = msgspec.field(name="preference")


class Login(_Request, frozen=True, tag="LOGIN"):
    """Log in with an invite link."""

    link: Annotated[str, Meta(max_length=2048)]


class BeginLogin(_Request, frozen=True, tag="BEGIN_LOGIN"):
    """Begin to log in at the cloud with `cloud_url`, with its OpenID provider called `provider`.

    Without a name, the cloud's only provider is meant. The event `login` tells the result.
    """

    cloud_url: Annotated[str, Meta(max_length=2048)]
    provider: Annotated[str, Meta(max_length=64)] = ""


class CancelLogin(_Request, frozen=True, tag="CANCEL_LOGIN"):
    """Give up the login that BEGIN_LOGIN began, if there is one."""


class Logout(_Request, frozen=True, tag="LOGOUT"):
    """Log out of the cloud, and delete the credentials."""


class LeaseKeys(_Request, frozen=True, tag="LEASE_KEYS"):
    """Return whether the cloud knows the API keys as they are now; wait some seconds for that."""


class Logs(_Request, frozen=True, tag="LOGS"):
    """Return the last `lines` of the daemon's log; with `follow`, send the next ones as events."""

    lines: Annotated[int, Meta(ge=0, le=1000)] = 100
    follow: bool = False


class About(_Request, frozen=True, tag="ABOUT"):
    """Return the versions of the daemon and of its platform."""


Request = (
    Auth | StatusRequest | Subscribe | Show | Hide | Settings | Quit | Prefer | Login | BeginLogin
    | CancelLogin | Logout | LeaseKeys | Logs | About
)  # fmt: skip
COMMANDS = tuple(str(kind.__struct_config__.tag) for kind in Request.__args__)


class Hello(msgspec.Struct, frozen=True):
    """The first event. If the challenge is empty, the client is authenticated already."""

    protocol: int
    version: str
    challenge: str


class ErrorDetail(msgspec.Struct, frozen=True):
    """An error. `code` is for programs and does not change between versions."""

    code: str
    message: str


class Proof(msgspec.Struct, frozen=True):
    """The response to AUTH: the daemon's own proof."""

    proof: str


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response to a request; `id` is null if the request's id could not be read."""

    id: RequestId | None
    ok: bool
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorDetail | None = None


class Event(msgspec.Struct, frozen=True):
    """A message that responds to no request: hello, status, log, quitting or error."""

    event: str
    data: msgspec.Raw


class DaemonAddress(msgspec.Struct, frozen=True):
    """The contents of the address file, which only the daemon's user can read."""

    port: int
    secret: str
    pid: int
    socket: str = ""


_REQUEST: Any = Request


class _LooseRequest(msgspec.Struct):
    id: object = None
    command: object = None


def parse_request(line: bytes) -> Request:
    """Parse the line of a request; raises BadRequest."""
    try:
        request: Request = decode_json(line, _REQUEST)
    except InvalidJson as error:
        raise BadRequest(_explain_invalid(line, error)) from error
    return request


def parse_request_id(line: bytes) -> RequestId | None:
    """Return the id in the line of a request that may be invalid, or None."""
    try:
        loose = decode_json(line, _LooseRequest)
        id: RequestId | None = msgspec.convert(loose.id, RequestId | None)
    except ValueError:
        return None
    return id


def _explain_invalid(line: bytes, error: Exception) -> str:
    try:
        loose = decode_json(line, _LooseRequest)
    except InvalidJson:
        return "A request is one JSON object with an id and a command."
    if not isinstance(loose.command, str) or loose.command not in COMMANDS:
        name = loose.command if isinstance(loose.command, str) else ""
        return f"Unknown command {name[:40]!r}. The commands are {', '.join(COMMANDS)}."
    return f"{loose.command}: {error}"


def encode_request(request: Request) -> bytes:
    """Return the line of a request."""
    return msgspec.json.encode(request) + b"\n"


def encode_response(id: RequestId | None, data: object) -> bytes:
    """Return the line of a response with `data`."""
    return msgspec.json.encode(Response(id, True, msgspec.Raw(msgspec.json.encode(data)))) + b"\n"


def encode_error(id: RequestId | None, error: CtllmError) -> bytes:
    """Return the line of a response with an error."""
    detail = ErrorDetail(error.code, error.message)
    return msgspec.json.encode(Response(id, False, error=detail)) + b"\n"


def encode_event(event: str, data: object) -> bytes:
    """Return the line of an event."""
    return msgspec.json.encode(Event(event, msgspec.Raw(msgspec.json.encode(data)))) + b"\n"


def parse_message(line: bytes) -> Response | Event:
    """Parse a line of the daemon; raises BadRequest."""
    kinds: tuple[type[Event] | type[Response], ...] = (Event, Response)
    for kind in kinds:
        try:
            return decode_json(line, kind)
        except InvalidJson:
            continue
    raise BadRequest("The server is not a ctllm desktop daemon: it sent an invalid message.")


def compute_proof(
    secret: str, role: Literal["client", "daemon"], challenge: str, nonce: str
) -> str:
    """Return the proof, in hexadecimal digits, that `role` knows the secret."""
    text = f"ctllm-ipc-{role} {challenge} {nonce}".encode()
    return hmac.digest(bytes.fromhex(secret), text, "sha256").hex()
