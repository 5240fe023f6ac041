"""Calls at the end of the reactor's turn, which cost less than a timer of 0 seconds.

Such a timer is an object in a heap, called in a log context, for every message of a tunnel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def end_of_turn(clock: Any) -> Callable[[Callable[[], object]], object]:
    """Return a function that has the function given to it called once, soon.

    With `MonotonicReactor` that is after the sockets that are ready in this turn; with any other
    clock, in its next turn.
    """
    call = getattr(clock, "call_at_end_of_turn", None)
    return (lambda function: clock.callLater(0, function)) if call is None else call
