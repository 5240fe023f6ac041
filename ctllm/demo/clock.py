"""Time, as far as the stand-in needs it: Twisted's reactors have it, and `task.Clock`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Call it off."""


class Clock(Protocol):
    """What Twisted calls IReactorTime, told to the type checker."""

    def seconds(self) -> float:
        """Give the time in seconds."""

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: Any) -> Timer:
        """Call something so many seconds from now."""
