"""The users of a cloud that a benchmark runs: their access tokens, invites and proxies."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

from benchmarks.processes import Unavailable
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessTokenIssuer,
    AssertionSigner,
    Invites,
    PrivateDirectory,
    User,
    load_signing_keys,
    proxy_id,
)

#: Seconds within which a proxy must be started.
START_TIMEOUT = 180.0


class Accounts:
    """The users of a cloud with the state folder `state`, by name.

    The cloud must have been started once: it creates its keys then. Access tokens live for
    `token_seconds`.
    """

    def __init__(self, state: Path, token_seconds: int = 3600) -> None:
        directory = PrivateDirectory(state / "cloud")
        self._keys = load_signing_keys(directory)
        self._issuer = AccessTokenIssuer(self._keys.signing_key, time.time, token_seconds)
        self._invites = Invites(directory.subdirectory("invites"), time.time)

    def token(self, name: str) -> str:
        """A new access token, which may do all that a user may."""
        return self._issuer.issue(_user(name), frozenset((USE, MANAGE, SERVE)))

    def authorization(self, name: str) -> dict[str, str]:
        """The headers of a user's requests, with a new access token."""
        return {"Authorization": f"Bearer {self.token(name)}"}

    def invite(self, name: str) -> str:
        """A new invite, for the login of a desktop."""
        return self._invites.create(name)

    def proxy_id(self, name: str) -> str:
        """The id of a user's proxy, which is the name of the container."""
        return proxy_id(self._keys.instance_secret, _user(name).id)

    def assertion(self, name: str) -> str:
        """A new assertion that the cloud would send to a user's proxy with a request."""
        signer = AssertionSigner(self._keys.signing_key, time.time)
        return signer.sign(self.proxy_id(name), frozenset({USE}))


def _user(name: str) -> User:
    return User("ctllm", name, name)


def start_proxy(port: int, authorization: dict[str, str]) -> float:
    """Start a user's proxy by the cloud at `port`; returns the seconds until it responds.

    Raises Unavailable, with the cloud's response, if it is not started.
    """
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    connection.request("PUT", "/ctllm/proxy", headers=authorization)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise Unavailable(f"a proxy was not started: {response.status} {body!r}")
    return time.monotonic() - began
