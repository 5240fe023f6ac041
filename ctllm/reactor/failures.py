"""Twisted's `Failure` with type annotations, which its constructor lacks."""

from __future__ import annotations

from twisted.python.failure import Failure


def make_failure(error: BaseException | None = None) -> Failure:
    """Wrap `error`, or else the exception that is being handled."""
    return Failure(error)  # type: ignore[no-untyped-call]


def trap(reason: Failure, *errors: type[BaseException]) -> None:
    """Raise the error of `reason` again unless it is one of `errors`."""
    reason.trap(*errors)  # type: ignore[no-untyped-call]
