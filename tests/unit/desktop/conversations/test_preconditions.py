"""Tests of the preconditions of a write."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.preconditions import (
    HasRevision,
    IsAbsent,
    format_etag,
    parse_precondition,
    require_precondition,
)
from ctllm.errors import BadRequest, PreconditionRequired


class PreconditionTests(TestCase):
    """The headers If-Match and If-None-Match."""

    def test_what_is_written_can_be_parsed(self) -> None:
        """The entity tag of a revision is its precondition."""
        self.assertEqual(parse_precondition(format_etag(17), None), HasRevision(17))
        self.assertEqual(parse_precondition(None, b" * "), IsAbsent())
        self.assertIsNone(parse_precondition(None, None))

    def test_other_values_are_refused(self) -> None:
        """A weak tag, a list, a star that would overwrite anything, both headers."""
        for if_match, if_none_match in (
            (b'W/"1"', None), (b'"1", "2"', None), (b"*", None), (b"1", None), (b'"x"', None),
            (b'"99999999999999999"', None), (None, b'"1"'), (b'"1"', b"*"),
        ):  # fmt: skip
            with self.assertRaises(BadRequest):
                parse_precondition(if_match, if_none_match)

    def test_a_write_needs_one(self) -> None:
        """Nothing is overwritten by a client that does not know what is there."""
        with self.assertRaises(PreconditionRequired):
            require_precondition(None)
        self.assertEqual(require_precondition(IsAbsent()), IsAbsent())
