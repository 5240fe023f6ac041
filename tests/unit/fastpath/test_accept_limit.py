"""A limit of the connections that are accepted in one turn of the reactor."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.accept_limit import limit_accepts


class FakePort:
    """A port that records how many connections each read accepts."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def doRead(self) -> None:
        self.accepted.append(getattr(self, "numberAccepts", 100))


class LimitAcceptsTests(SynchronousTestCase):
    def test_limits_each_read_although_twisted_raises_the_number(self) -> None:
        port = FakePort()
        port.numberAccepts = 5000  # type: ignore[attr-defined]
        limit_accepts(port, 16)
        port.doRead()
        port.numberAccepts = 700  # type: ignore[attr-defined]
        port.doRead()
        self.assertEqual(port.accepted, [16, 16])

    def test_keeps_a_smaller_number(self) -> None:
        port = FakePort()
        port.numberAccepts = 3  # type: ignore[attr-defined]
        limit_accepts(port, 16)
        port.doRead()
        self.assertEqual(port.accepted, [3])

    def test_leaves_a_port_without_the_attribute_alone(self) -> None:
        port = FakePort()
        limit_accepts(port, 16)
        port.doRead()
        self.assertEqual(port.accepted, [100])
