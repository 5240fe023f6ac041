"""Tests of `ctllm.light_functions`: each replacement behaves as what it replaces."""

from __future__ import annotations

import inspect
import platform
from functools import partial
from typing import Any

import attr
from autobahn.wamp import types
from twisted.trial.unittest import SynchronousTestCase

from ctllm import light_functions


class Example:
    """Something of each kind that `inspect` tells apart."""

    def method(self, a: int, b: int = 0) -> None: ...

    async def coroutine(self) -> None: ...


EXAMPLES: list[Any] = [
    Example, Example.method, Example().method, Example.coroutine, Example().coroutine,
    partial(Example().coroutine), partial(Example().method), len, 7,
]  # fmt: skip


class LightFunctionTests(SynchronousTestCase):
    """Each test compares replacements with the originals."""

    def test_the_kinds_of_objects_are_told_apart_as_by_inspect(self) -> None:
        for name in ("isclass", "isfunction", "ismethod", "iscoroutinefunction"):
            light, original = getattr(light_functions, name), getattr(inspect, name)
            for example in EXAMPLES:
                self.assertEqual(light(example), original(example), (name, example))

    def test_bases_and_frames_are_those_of_inspect(self) -> None:
        self.assertEqual(light_functions.getmro(bool), inspect.getmro(bool))
        self.assertIs(light_functions.currentframe(), inspect.currentframe())

    def test_a_method_has_the_parameters_that_inspect_finds(self) -> None:
        light = light_functions.signature(Example().method).parameters
        self.assertEqual(list(light), list(inspect.signature(Example().method).parameters))

    def test_a_function_has_its_whole_signature(self) -> None:
        self.assertEqual(light_functions.signature(run := lambda a: a), inspect.signature(run))

    def test_the_implementation_of_python_has_the_same_name(self) -> None:
        self.assertEqual(light_functions.python_implementation(), platform.python_implementation())

    def test_validators_and_converters_do_the_same_for_attrs(self) -> None:
        attributes: Any = attr.make_class(
            "Attributes",
            {
                "kind": attr.ib(validator=light_functions.in_(["TCP", "UDP"])),
                "size": attr.ib(default=None, converter=light_functions.optional(int)),
            },
        )
        self.assertEqual((attributes("TCP").size, attributes("UDP", "7").size), (None, 7))
        self.assertRaises(ValueError, attributes, "other")

    def test_the_constants_of_transport_details_are_autobahns(self) -> None:
        for name in ("CHANNEL_TYPE_TCP", "CHANNEL_TYPE_TLS", "CHANNEL_FRAMING_WEBSOCKET"):
            self.assertEqual(getattr(light_functions.TransportDetails, name),
                             getattr(types.TransportDetails, name))  # fmt: skip
