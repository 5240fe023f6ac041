"""What an engine complains of, as errors: each with a sentence that says what to do about it."""

from __future__ import annotations

import errno

import msgspec
from OpenSSL import SSL
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import ProxyUnavailable


class EngineRefused(ProxyUnavailable):
    """The engine answered with an error, or with something that it should not have."""


class EngineAbsent(EngineRefused):
    """Nothing answers, or not to us. Containers that run go on."""


class EngineTooOld(EngineRefused):
    """It does not speak a version of the API that we do."""


class Missing(EngineRefused):
    """There is no such container, network or image."""


class ImageMissing(Missing):
    """The image to start has not been made or loaded."""


class Conflict(EngineRefused):
    """A name is taken, or something is not in the state for that."""


class NoSubnet(EngineRefused):
    """The subnet that was asked for overlaps another network's."""


class NoRoom(EngineRefused):
    """The engine's disk is full."""


class _Told(msgspec.Struct):
    message: str = ""


def complaint(status: int, answer: bytes) -> EngineRefused:
    """The error that an answer with this status and body is; texts are of engines 20 to 28."""
    try:
        said = decode_json(answer, _Told).message.strip()
    except InvalidJson:
        said = answer[:200].decode("utf-8", "replace").strip()
    said = " ".join(said.split())[:500] or f"status {status} without a word"
    kind, sentence = _kind(status, said)
    return kind(f"{sentence}: {said}")


def _kind(status: int, said: str) -> tuple[type[EngineRefused], str]:
    low = said.lower()
    if "no space left on device" in low or "disk quota exceeded" in low:
        return NoRoom, "Docker's disk is full; docker system df says what takes it"
    if status == 404 and "no such image" in low:
        return ImageMissing, "Docker does not have the image; make it with make images, or load it"
    if "pool overlaps" in low or "overlaps with" in low:
        return NoSubnet, "Docker has another network there"
    if status == 404:
        return Missing, "Docker does not have it"
    if status == 409 or "has active endpoints" in low:
        return Conflict, "Docker cannot do that now"
    if status == 400 and "client version" in low:
        return EngineTooOld, "Docker does not take this version of its API"
    return EngineRefused, f"Docker refused with status {status}"


def absence(reason: Failure, where: str) -> EngineAbsent:
    """The error that a connection which failed is; `where` names the place for people."""
    for inner in getattr(reason.value, "reasons", ()):  # of an answer that did not come
        reason = inner
    number = getattr(reason.value, "osError", getattr(reason.value, "errno", None))
    why = _WHY.get(number) if isinstance(number, int) else None
    if isinstance(reason.value, SSL.Error):
        said = ", ".join(str(each[-1]) for each in reason.value.args[0]) or "it hung up"
        why = f"one of the certificates is not good for the other side: {said}"
    return EngineAbsent(f"{where}: {why or reason.getErrorMessage()}")


_WHY = {
    errno.EACCES: "ctllm may not open it; run it as a user of the group docker, or name another "
    "engine",
    errno.ENOENT: "there is no Docker engine; start it, or name another one",
    errno.ECONNREFUSED: "the Docker engine does not run; start it",
}
