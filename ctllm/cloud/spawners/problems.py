"""What keeps proxies from starting, for /health and for responses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ctllm.errors import CtllmError


class Problems:
    """The last error of each subject, such as an image, until it is solved."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def first(self) -> str:
        """The message of the oldest one, or an empty string."""
        return next(iter(self._messages.values()), "")

    @contextmanager
    def recording(self, subject: str) -> Iterator[None]:
        """Record an error of the block as the subject's problem until a later block succeeds."""
        try:
            yield
        except CtllmError as error:
            self._messages[subject] = error.message
            raise
        self._messages.pop(subject, None)

    def clear(self) -> None:
        """Forget all: a proxy has started."""
        self._messages.clear()
