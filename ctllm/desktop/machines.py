"""Machines whose `ollama` command may use the models, as the cloud lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm.errors import BadRequest

#: Times are epoch seconds; this is the year 9999.
_Time = Annotated[float, Meta(ge=0, le=253402300799)]


class Machine(msgspec.Struct, frozen=True):
    """A machine. `last_used` is None before its first use; `last_address` is truncated."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    fingerprint: Annotated[str, Meta(pattern=r"^SHA256:[A-Za-z0-9+/]{43}\Z")]
    scopes: Annotated[tuple[Literal["use", "manage"], ...], Meta(max_length=2)]
    created: _Time
    last_used: _Time | None = None
    last_address: Annotated[str, Meta(max_length=64)] = ""

    def __post_init__(self) -> None:
        """Refuse control characters; msgspec turns a ValueError into a ValidationError."""
        if not (self.name.isprintable() and self.last_address.isprintable()):
            raise ValueError("a name or an address with control characters")


class MachineList(msgspec.Struct, frozen=True):
    """The response to a request for the list."""

    machines: Annotated[tuple[Machine, ...], Meta(max_length=1000)]


def find_machine(machines: Sequence[Machine], name: str) -> Machine:
    """Return the machine with this name or fingerprint; raises BadRequest unless there is one."""
    found = [each for each in machines if name in (each.name, each.fingerprint)]
    if not found:
        raise BadRequest(f"There is no machine called {name!r}. List them with: ctllm machines")
    if len(found) > 1:
        raise BadRequest(
            f"{len(found)} machines are called {name!r}. Use the fingerprint of one: "
            + " ".join(each.fingerprint for each in found)
        )
    return found[0]
