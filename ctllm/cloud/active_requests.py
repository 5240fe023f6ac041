"""What users have under way: requests and tunnels that were let in, to be ended by a revocation."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.cloud.identity import AccessGrant
from ctllm.errors import CtllmError

AbortRequest = Callable[[CtllmError], None]


class ActiveRequests:
    """Requests and tunnels by their user's proxy, each with the grant that let it in."""

    def __init__(self) -> None:
        self._by_proxy: dict[str, dict[object, tuple[AccessGrant, AbortRequest]]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._by_proxy.values()))

    def add(self, proxy_id: str, grant: AccessGrant, abort: AbortRequest) -> Callable[[], None]:
        """Note one more, which `abort` would end; give what is to be called when it is over."""
        entry = object()
        self._by_proxy.setdefault(proxy_id, {})[entry] = grant, abort
        return lambda: self._remove(proxy_id, entry)

    def _remove(self, proxy_id: str, entry: object) -> None:
        entries = self._by_proxy.get(proxy_id, {})
        entries.pop(entry, None)
        if not entries:
            self._by_proxy.pop(proxy_id, None)

    def abort_inactive(self, proxy_id: str, check_active: Callable[[AccessGrant], None]) -> int:
        """End those of `proxy` for which `check` raises, with what it raises; give how many."""
        ended = 0
        for grant, abort in list(self._by_proxy.get(proxy_id, {}).values()):
            try:
                check_active(grant)
            except CtllmError as error:
                abort(error)
                ended += 1
        return ended
