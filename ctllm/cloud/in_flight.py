"""What users have under way: requests and tunnels that were let in, to be ended by a revocation."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.cloud.identity import Grant
from ctllm.errors import CtllmError

Abort = Callable[[CtllmError], None]


class InFlight:
    """Requests and tunnels by their user's proxy, each with the grant that let it in."""

    def __init__(self) -> None:
        self._by_proxy: dict[str, dict[object, tuple[Grant, Abort]]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._by_proxy.values()))

    def add(self, proxy: str, grant: Grant, abort: Abort) -> Callable[[], None]:
        """Note one more, which `abort` would end; give what is to be called when it is over."""
        entry = object()
        self._by_proxy.setdefault(proxy, {})[entry] = grant, abort
        return lambda: self._remove(proxy, entry)

    def _remove(self, proxy: str, entry: object) -> None:
        entries = self._by_proxy.get(proxy, {})
        entries.pop(entry, None)
        if not entries:
            self._by_proxy.pop(proxy, None)

    def abort(self, proxy: str, check: Callable[[Grant], None]) -> int:
        """End those of `proxy` for which `check` raises, with what it raises; give how many."""
        ended = 0
        for grant, abort in list(self._by_proxy.get(proxy, {}).values()):
            try:
                check(grant)
            except CtllmError as error:
                abort(error)
                ended += 1
        return ended
