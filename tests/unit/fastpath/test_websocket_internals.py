"""What is used of autobahn's internals, and what happens where they are missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.websocket_internals import drop, is_between_messages, send_close
from ctllm.tunnel.websocket import protocols
from tests.unit.tunnel.websocket import test_protocols
from tests.unit.tunnel.websocket.test_protocols import Case


class IsBetweenMessagesTests(SynchronousTestCase):
    def state(self, **changes: object) -> SimpleNamespace:
        return SimpleNamespace(
            **{"data": b"", "current_frame": None, "inside_message": False, **changes}
        )

    def test_is_true_while_autobahn_holds_nothing(self) -> None:
        self.assertTrue(is_between_messages(self.state()))

    def test_is_false_within_a_frame_or_message(self) -> None:
        for changes in ({"data": b"x"}, {"current_frame": object()}, {"inside_message": True}):
            self.assertFalse(is_between_messages(self.state(**changes)), changes)

    def test_is_false_if_autobahn_lacks_an_attribute(self) -> None:
        for name in ("data", "current_frame", "inside_message"):
            state = self.state()
            delattr(state, name)
            self.assertFalse(is_between_messages(state), name)


class InstalledAutobahnTests(Case):
    """The installed version has all internals."""

    def test_is_between_messages_once_open(self) -> None:
        for protocol in (self.proxy, self.bridge):
            self.assertTrue(is_between_messages(protocol))

    def test_is_within_a_frame_that_has_come_in_part(self) -> None:
        frame = b"\x02\x05ab"  # the beginning of a fragment, which is left to autobahn
        self.bridge.dataReceived(frame)
        self.assertFalse(is_between_messages(self.bridge))

    def test_send_close_sends_the_code(self) -> None:
        send_close(self.proxy, 1001, b"bye")
        self.settle()
        self.wait(5)
        self.assertEqual(self.closings, [(1001, "bye")])

    def test_drop_passes_the_reason_on(self) -> None:
        drop(self.bridge, "the peer was silent")
        self.settle()
        ((_, reason),) = self.closings
        self.assertIn("the peer was silent", reason)


class ReadByAutobahnTests(test_protocols.CarryingTests):
    """The tunnel does the same where autobahn lacks the attributes and reads every frame."""

    def setUp(self) -> None:
        self.patch(protocols, "is_between_messages", lambda protocol: False)
        super().setUp()


class FallbackTests(Case):
    """autobahn without the internals: the public way has the same result."""

    def test_send_close_closes_with_a_code_that_is_public(self) -> None:
        send_close(self.without(self.proxy, "sendCloseFrame"), 1001, b"bye")
        self.settle()
        self.wait(5)
        self.assertEqual(self.closings, [(1000, "bye")])

    def test_drop_aborts_the_connection(self) -> None:
        drop(self.without(self.bridge, "dropConnection"), "the peer was silent")
        self.settle()
        self.assertEqual(len(self.closings), 1)

    def without(self, protocol: Any, name: str) -> Any:
        """The protocol without an attribute."""

        class Partial:
            def __getattr__(self, wanted: str) -> Any:
                if wanted == name:
                    raise AttributeError(wanted)
                return getattr(protocol, wanted)

        return Partial()
