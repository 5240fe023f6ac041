"""Requests of unknown machines that wait until a person approves them. They are in memory only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_urlsafe

from ctllm.auth.request_signatures import PublicKey
from ctllm.errors import ServiceUnavailable, TooManyRequests

#: Seconds for which a request can be approved.
LIFETIME = 900.0
#: The User-Agent of the `ollama` command: its version, architecture and system.
_USER_AGENT = re.compile(r"ollama/([\w.+-]{1,32}) \((\w{1,16}) (\w{1,16})\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """A machine that signed a request with an unknown key.

    `code` names the request in the link to approve it. `address` is truncated, or empty if it is
    not known; `program` is the client's own statement. Times are epoch seconds.
    """

    code: str = field(repr=False)
    key: PublicKey
    address: str
    program: str
    requested_at: float
    expires_at: float


class MachineRequests:
    """The requests that wait; `now` returns epoch seconds.

    At most `max_requests` are stored, of them `max_per_address` of one truncated address.
    """

    def __init__(
        self, now: Callable[[], float], max_requests: int = 1000, max_per_address: int = 16
    ) -> None:
        self._now = now
        self._max_requests = max_requests
        self._max_per_address = max_per_address
        self._by_code: dict[bytes, MachineRequest] = {}  # by the hash of the code, oldest first

    def __len__(self) -> int:
        """Return the number of requests that are stored."""
        return len(self._by_code)

    def create(self, key: PublicKey, address: str, user_agent: str) -> MachineRequest:
        """Return the request of `key`; create it if there is none.

        Raises TooManyRequests or ServiceUnavailable if too many others wait.
        """
        self._remove_expired()
        waiting = self._of_key(key)
        if waiting is not None:
            return waiting
        self._check_limits(address)
        code, now = token_urlsafe(16), self._now()
        program = _describe_program(user_agent)
        request = MachineRequest(code, key, address, program, now, now + LIFETIME)
        self._by_code[_hash(code)] = request
        return request

    def find(self, code: str) -> MachineRequest | None:
        """Return the request with this code, or None if there is none or it has expired."""
        request = self._by_code.get(_hash(code))
        return None if request is None or self._now() >= request.expires_at else request

    def remove(self, code: str) -> None:
        """Remove a request, if there is one with this code."""
        self._by_code.pop(_hash(code), None)

    def _of_key(self, key: PublicKey) -> MachineRequest | None:
        return next((each for each in self._by_code.values() if each.key == key), None)

    def _remove_expired(self) -> None:
        now = self._now()
        self._by_code = {
            digest: request for digest, request in self._by_code.items() if now < request.expires_at
        }

    def _check_limits(self, address: str) -> None:
        per_address = Counter(request.address for request in self._by_code.values())
        if per_address[address] >= self._max_per_address:
            raise TooManyRequests(
                "Too many machines at this address wait for an approval. Approve or decline one, "
                "or try again later.",
                retry_after=60,
            )
        if len(self._by_code) >= self._max_requests:
            raise ServiceUnavailable(
                "Too many machines wait for an approval. Try again later.", retry_after=60
            )


def _describe_program(user_agent: str) -> str:
    """Return the system and version in a User-Agent of `ollama`, or nothing for another one."""
    match = _USER_AGENT.match(user_agent)
    return f"ollama {match[1]} on {match[3]} ({match[2]})" if match else ""


def _hash(code: str) -> bytes:
    return sha256(code.encode("utf-8", "surrogatepass")).digest()
