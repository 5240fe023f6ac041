"""What an engine complains of, as errors: each with a sentence that says what to do about it."""

from __future__ import annotations

import errno

import msgspec
from OpenSSL import SSL
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import ProxyUnavailable


class DockerError(ProxyUnavailable):
    """The engine answered with an error, or with something that it should not have."""


class DockerUnavailable(DockerError):
    """Nothing answers, or not to us. Containers that run go on."""


class DockerTooOld(DockerError):
    """It does not speak a version of the API that we do."""


class DockerNotFound(DockerError):
    """There is no such container, network or image."""


class ImageNotFound(DockerNotFound):
    """The image to start has not been made or loaded."""


class DockerConflict(DockerError):
    """A name is taken, or something is not in the state for that."""


class SubnetOverlap(DockerError):
    """The subnet that was asked for overlaps another network's."""


class DiskFull(DockerError):
    """The engine's disk is full."""


class _ErrorBody(msgspec.Struct):
    message: str = ""


def error_from_response(status: int, body: bytes) -> DockerError:
    """The error that an answer with this status and body is; texts are of engines 20 to 28."""
    try:
        message = decode_json(body, _ErrorBody).message.strip()
    except InvalidJson:
        message = body[:200].decode("utf-8", "replace").strip()
    message = " ".join(message.split())[:500] or f"status {status} without a word"
    error_type, sentence = _classify(status, message)
    return error_type(f"{sentence}: {message}")


def _classify(status: int, message: str) -> tuple[type[DockerError], str]:
    lowered = message.lower()
    if "no space left on device" in lowered or "disk quota exceeded" in lowered:
        return DiskFull, "Docker's disk is full; docker system df says what takes it"
    if status == 404 and "no such image" in lowered:
        return ImageNotFound, "Docker does not have the image; make it with make images, or load it"
    if "pool overlaps" in lowered or "overlaps with" in lowered:
        return SubnetOverlap, "Docker has another network there"
    if status == 404:
        return DockerNotFound, "Docker does not have it"
    if status == 409 or "has active endpoints" in lowered:
        return DockerConflict, "Docker cannot do that now"
    if status == 400 and "client version" in lowered:
        return DockerTooOld, "Docker does not take this version of its API"
    return DockerError, f"Docker refused with status {status}"


def unavailable_from_failure(reason: Failure, description: str) -> DockerUnavailable:
    """The error that a connection which failed is; `where` names the place for people."""
    for inner in getattr(reason.value, "reasons", ()):  # of an answer that did not come
        reason = inner
    number = getattr(reason.value, "osError", getattr(reason.value, "errno", None))
    advice = _ADVICE.get(number) if isinstance(number, int) else None
    if isinstance(reason.value, SSL.Error):
        reasons = ", ".join(str(each[-1]) for each in reason.value.args[0]) or "it hung up"
        advice = f"one of the certificates is not good for the other side: {reasons}"
    return DockerUnavailable(f"{description}: {advice or reason.getErrorMessage()}")


_ADVICE = {
    errno.EACCES: "ctllm may not open it; run it as a user of the group docker, or name another "
    "engine",
    errno.ENOENT: "there is no Docker engine; start it, or name another one",
    errno.ECONNREFUSED: "the Docker engine does not run; start it",
}
