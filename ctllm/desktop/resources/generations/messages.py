"""The JSON of the generations of a desktop: see docs/stream.md."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

#: 32 hexadecimal digits, chosen by the client.
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z", max_length=32)]


class StartGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to start a generation: `request` is the body for `path` of Ollama's API.

    `conversation` and `message` are listed with the generation, for other clients to find it.
    """

    id: Id
    path: Literal["/api/chat", "/api/generate"]
    request: msgspec.Raw
    conversation: Id | Literal[""] = ""
    message: Id | Literal[""] = ""


class GenerationStatus(msgspec.Struct, frozen=True):
    """A generation in the list; `started_at` is in epoch seconds."""

    id: str
    conversation: str
    message: str
    model: str
    state: str
    bytes: int
    readers: int
    started_at: float


class GenerationList(msgspec.Struct, frozen=True):
    """The list of generations."""

    generations: list[GenerationStatus]


class RequestedModel(msgspec.Struct, frozen=True):
    """The model of a request; Ollama checks it."""

    model: object = ""
