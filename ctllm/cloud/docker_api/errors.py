"""The errors of the Docker client."""

from __future__ import annotations

import errno

import msgspec
from OpenSSL import SSL
from twisted.python.failure import Failure

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import ProxyUnavailable


class DockerError(ProxyUnavailable):
    """Docker responded with an error, or with an invalid response."""


class DockerUnavailable(DockerError):
    """Docker cannot be reached. Containers that run are not affected."""


class DockerVersionMismatch(DockerError):
    """Docker and this client have no version of the API in common."""


class DockerTooOld(DockerVersionMismatch):
    """Docker supports only older versions of the API."""


class DockerTooNew(DockerVersionMismatch):
    """Docker supports only newer versions of the API."""


class DockerNotFound(DockerError):
    """The container, network or image does not exist."""


class ImageNotFound(DockerNotFound):
    """The image has not been built or loaded."""


class DockerConflict(DockerError):
    """The name is in use, or the object is in a state that does not allow the request."""


class SubnetOverlap(DockerError):
    """The subnet overlaps that of another network."""


class DiskFull(DockerError):
    """The disk of Docker's host is full."""


class _ErrorBody(msgspec.Struct):
    message: str = ""


def error_from_response(status: int, body: bytes) -> DockerError:
    """Return the error for a response. The texts were observed with Docker 20 to 28."""
    try:
        message = decode_json(body, _ErrorBody).message.strip()
    except InvalidJson:
        message = body[:200].decode("utf-8", "replace").strip()
    message = " ".join(message.split())[:500] or f"status {status} without a message"
    error_type, sentence = _classify(status, message)
    return error_type(f"{sentence}: {message}")


#: What messages of conflicts contain whose status is not 409.
_CONFLICTS = (
    "has active endpoints",
    "already attached to network",
    "already exists in network",
    "is in use by",
)


def _classify(status: int, message: str) -> tuple[type[DockerError], str]:
    lowered = message.lower()
    if "no space left on device" in lowered or "disk quota exceeded" in lowered:
        return DiskFull, "Docker's disk is full. Run docker system df to see what uses it"
    if status == 404 and "no such image" in lowered:
        return ImageNotFound, "Docker does not have the image. Run make images, or load the image"
    if "pool overlaps" in lowered or "overlaps with" in lowered:
        return SubnetOverlap, "Docker has another network with this subnet"
    if status == 404:
        return DockerNotFound, "Docker did not find it"
    if "not a swarm manager" in lowered:
        return DockerError, (
            "Docker is not a manager of a swarm. Run docker swarm init, or change cloud.docker_url"
        )
    if status == 409 or any(each in lowered for each in _CONFLICTS):
        return DockerConflict, "Docker reported a conflict"
    if status == 400 and "client version" in lowered and "too old" in lowered:
        return DockerTooNew, "Docker supports only newer versions of its API. Update ctllm"
    if status == 400 and "client version" in lowered:
        return DockerTooOld, "Docker does not support this version of its API. Update Docker"
    return DockerError, f"Docker responded with status {status}"


def unavailable_from_failure(reason: Failure, description: str) -> DockerUnavailable:
    """Return the error for a connection that failed. `description` names the address."""
    for inner in getattr(reason.value, "reasons", ()):  # of ResponseFailed
        reason = inner
    number = getattr(reason.value, "osError", getattr(reason.value, "errno", None))
    advice = _ADVICE.get(number) if isinstance(number, int) else None
    if isinstance(reason.value, SSL.Error):
        reasons = ", ".join(str(each[-1]) for each in reason.value.args[0])
        advice = f"one of the certificates was rejected: {reasons or 'the connection was closed'}"
    return DockerUnavailable(f"{description}: {advice or reason.getErrorMessage()}")


_ADVICE = {
    errno.EACCES: "permission denied. Run ctllm as a user of the group docker, or change "
    "cloud.docker_url",
    errno.ENOENT: "the socket does not exist. Start Docker, or change cloud.docker_url",
    errno.ECONNREFUSED: "the connection was refused. Start Docker",
}
