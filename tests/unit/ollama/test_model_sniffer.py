"""The model's name read out of bodies as they come, beside a parser that has them whole."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.ollama.model_sniffer import MAX_NAME, SCAN_LIMIT, JsonModelSniffer

MODEL = ("model",)
EITHER = ("model", "name")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.one_of(texts, st.sampled_from(["model", "name", "Model", "messages", 'mod"el', "\\"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
cuts = st.lists(st.integers(0, 400), max_size=6)


def read(body: bytes, fields: tuple[str, ...] = MODEL, *at: int) -> JsonModelSniffer:
    """A reader that was given the body in pieces."""
    name = JsonModelSniffer(fields)
    edges = [0, *sorted({edge for edge in at if edge < len(body)}), len(body)]
    for start, end in pairwise(edges):
        name.feed(body[start:end])
    return name


def expected(value: Any, fields: tuple[str, ...]) -> str | None:
    """What Ollama would take for the model, of an object without a key twice."""
    for field in fields:
        found = {key.casefold(): each for key, each in value.items()}.get(field)
        if isinstance(found, str) and found:
            return found
    return None


class ParserEquivalenceTests(TestCase):
    """The sniffer finds what a JSON parser finds."""

    @given(st.dictionaries(keys, values, max_size=6), st.booleans(), cuts)
    def test_finds_the_name_however_the_body_is_cut(
        self, value: dict[str, Any], ascii: bool, at: list[int]
    ) -> None:
        if len({key.casefold() for key in value}) < len(value):
            return  # the same key in two cases: see below
        body = json.dumps(value, ensure_ascii=ascii).encode()
        for fields in (MODEL, EITHER):
            self.assertEqual(read(body, fields, *at).name, expected(value, fields))

    @given(st.dictionaries(keys, values, max_size=6), st.sampled_from([None, 0, 1, "\t", " \n"]))
    def test_finds_the_name_in_any_layout(self, value: dict[str, Any], indent: Any) -> None:
        others = {key: each for key, each in value.items() if key.lower() != "model"}
        body = json.dumps({**others, "model": "m:1", "x": 1}, indent=indent).encode()
        self.assertEqual(read(b" \r\n" + body).name, "m:1")

    @given(st.binary(max_size=200), cuts)
    @example(b'{"model', [])
    @example(b'{"model": "\\', [])
    @example(b'{"model": "\\ud800"}', [])
    @example(b'{"model": "\xff"}', [])
    @example(b"]]]]", [])
    @example(b'{"a":]}', [])
    def test_result_of_any_bytes_does_not_depend_on_cuts(self, body: bytes, at: list[int]) -> None:
        whole, cut = read(body), read(body, MODEL, *at)
        self.assertEqual((whole.name, whole.is_settled), (cut.name, cut.is_settled))

    @given(texts)
    def test_finds_the_name_byte_by_byte(self, name: str) -> None:
        body = json.dumps({"x": [{"model": "no"}, "}"], "mo\\del": 1, "model": name}).encode()
        self.assertEqual(read(body, MODEL, *range(len(body))).name, name or None)


class SettledTests(TestCase):
    """When the result is settled."""

    def test_settles_at_the_scan_limit_with_a_name(self) -> None:
        before = b'{"messages": [{"model": "other"}], "x": {"model": "other"}, "model": "m:1'
        name = read(before)
        self.assertIsNone(name.name)
        name.feed(b'", "y": "')
        self.assertEqual((name.is_settled, name.name), (False, "m:1"))
        name.feed(b"z" * SCAN_LIMIT)
        self.assertEqual((name.is_settled, name.name), (True, "m:1"))
        name.feed(b'", "model": "late"}')
        self.assertEqual(name.name, "m:1")

    def test_settles_at_a_name_after_the_scan_limit(self) -> None:
        name = read(b'{"x": "' + b"y" * SCAN_LIMIT)
        name.feed(b'", "model": "m:1"')
        self.assertEqual((name.is_settled, name.name), (True, "m:1"))

    def test_waits_for_a_field_of_higher_precedence(self) -> None:
        name = read(b'{"name": "older"', EITHER)
        self.assertEqual((name.is_settled, name.name), (False, "older"))
        name.feed(b"}")
        self.assertTrue(name.is_settled)
        self.assertEqual(read(b'{"name": "older", "model": "newer"', EITHER).name, "newer")
        self.assertEqual(read(b'{"name": "older", "model": ""}', EITHER).name, "older")

    def test_settles_at_the_end_of_the_object(self) -> None:
        for body in (b"{}", b'{"model": null}', b'{"model": ["m"]}', b'{"model": {"model": "m"}}'):
            name = read(body + b'"model":"m"')
            self.assertEqual((name.is_settled, name.name), (True, None), body)

    def test_settles_at_once_for_other_json(self) -> None:
        for body in (
            b'["model"]',
            b'"model"',
            b"--boundary",
            b"\x28\xb5\x2f\xfd",
            b"\xef\xbb\xbf{",
        ):
            name = read(b" \n" + body)
            self.assertEqual((name.is_settled, name.name), (True, None), body)
        self.assertFalse(read(b" \n").is_settled)

    def test_last_value_of_a_repeated_key_wins(self) -> None:
        for body, expected in (
            (b'{"model": "a", "Model": "b"}', "b"),
            (b'{"model": "a", "x": {"model": "no"}, "model": "b"}', "b"),
            (b'{"model": "a", "model": null}', "a"),
            (b'{"model": "a", "model": ""}', None),
            (b'{"model": "a", "x": "' + b"y" * (SCAN_LIMIT - 100) + b'", "model": "b"}', "b"),
        ):
            self.assertEqual((read(body).name, read(body).is_settled), (expected, True), body[:60])
            cut = read(body, MODEL, *range(0, len(body), 1000))
            self.assertEqual((cut.name, cut.is_settled), (expected, True), body[:60])
        self.assertEqual(read(b'{"name": "a", "model": "b", "model": ""}', EITHER).name, "a")

    def test_ignores_case_and_escapes_of_keys(self) -> None:
        for key in (b"MODEL", b"Model", b"m\\u006fdel"):
            self.assertEqual(read(b'{"%b": "m"' % key).name, "m")
        self.assertEqual(read('{"\u017fource": "m"}'.encode(), ("source",)).name, "m")

    def test_ignores_names_over_the_limit(self) -> None:
        longest = b"m" * MAX_NAME
        self.assertEqual(read(b'{"model": "%b"}' % longest).name, longest.decode())
        self.assertIsNone(read(b'{"model": "%bm"}' % longest).name)
        self.assertEqual(read(b'{"%bm": 1, "model": "m"}' % longest).name, "m")

    def test_stores_no_long_strings(self) -> None:
        name = JsonModelSniffer(MODEL)
        tracemalloc.start()
        for before in (b'{"messages":[{"images":["', b'"]}],"x":{"', b'":1},"', b'":1,"model":"'):
            name.feed(before)
            for _ in range(64):
                name.feed(b"A" * 65536)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 1 << 20)
        name.feed(b'"')
        self.assertEqual((name.is_settled, name.name), (False, None))

    def test_deep_nesting_uses_no_recursion(self) -> None:
        name = read(b'{"x":' + b"[" * 100_000 + b'"model":"no"' + b"]" * 100_000 + b',"model":"m"}')
        self.assertEqual((name.is_settled, name.name), (True, "m"))
