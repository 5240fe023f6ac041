"""Lists of models made one: what is kept, in which order, and what is left out."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.http.message.head import RequestHead
from ctllm.ollama.model_lists import ListFormat, find_list_format, merge_lists


def form(path: bytes) -> ListFormat:
    """The form of the list at `path`."""
    found = find_list_format(RequestHead(b"GET", path))
    assert found is not None
    return found


TAGS, PS, MODELS = form(b"/api/tags"), form(b"/api/ps"), form(b"/v1/models")


def tags(*entries: Any, **more: Any) -> bytes:
    """A list as Ollama's own dialect has it; an entry may be a name and a time."""
    models = [
        {"name": each[0], "modified_at": each[1]} if isinstance(each, tuple) else each
        for each in entries
    ]
    return json.dumps({"models": models, **more}).encode()


def names(merged: bytes | None) -> list[str]:
    """The names in a list of Ollama's own dialect."""
    assert merged is not None
    return [model["name"] for model in json.loads(merged)["models"]]


class ListFormatTests(TestCase):
    """Which requests are for lists."""

    def test_lists_are_gets_of_known_paths(self) -> None:
        for method, target, is_list in (
            (b"GET", b"/api/tags", True),
            (b"GET", b"/v1/models?limit=5", True),
            (b"GET", b"/api/ps", True),
            (b"HEAD", b"/api/tags", False),
            (b"POST", b"/api/tags", False),
            (b"GET", b"/v1/models/m", False),
            (b"GET", b"/api/version", False),
        ):
            found = find_list_format(RequestHead(method, target))
            self.assertEqual(found is not None, is_list, (method, target))


class MergeTests(TestCase):
    """MergeTests of lists."""

    def test_sorts_newest_first_by_the_instant(self) -> None:
        one = tags(("a", "2025-10-03T23:34:03.409490317-07:00"), ("b", "2025-01-01T00:00:00Z"))
        two = tags(("c", "2025-10-04T06:00:00Z"), ("d", "2025-10-04T07:00:00+00:00"))
        self.assertEqual(names(merge_lists(TAGS, [one, two])), ["d", "a", "c", "b"])

    def test_keeps_the_order_within_a_second(self) -> None:
        one = tags(("a", "2025-10-03T10:00:00.1Z"), ("b", "2025-10-03T10:00:00.9Z"))
        two = tags(("c", "2025-10-03T10:00:00.5Z"))
        self.assertEqual(names(merge_lists(TAGS, [one, two])), ["a", "b", "c"])

    def test_sorts_invalid_times_last(self) -> None:
        odd: list[Any] = [
            ("a", "yesterday"),
            ("b", 7),
            ("c", None),
            ("d", "2025-10-03T10:00:00"),
            ("e", []),
        ]
        odd += [("f", "0001-01-01T00:00:00+14:00"), {"name": "g"}]
        merged = names(merge_lists(TAGS, [tags(*odd)]))
        self.assertEqual((merged[:2], sorted(merged)), (["d", "b"], list("abcdefg")))

    def test_first_list_wins_for_a_duplicate_model(self) -> None:
        one = tags({"name": "m:latest", "modified_at": "2025-01-01T00:00:00Z", "size": 1})
        two = tags({"name": "M", "modified_at": "2025-02-01T00:00:00Z", "size": 2}, ("n", ""))
        merged = merge_lists(TAGS, [one, two])
        assert merged is not None
        self.assertEqual([model.get("size") for model in json.loads(merged)["models"]], [1, None])

    def test_keeps_entries_byte_for_byte(self) -> None:
        entry = (
            b'{"x": 1.50, "n":1e3,  "name":"m\\u003a1", "size":12345678901234567890123,"z":[{}]}'
        )
        other = b'{"name":"n","capabilities":["vision"]}'
        body = b'{"future": {"a":  1}, "models": [' + entry + b"]}"
        merged = merge_lists(TAGS, [body, b'{"models":[' + other + b"]}"])
        self.assertEqual(merged, b'{"future":{"a":  1},"models":[' + entry + b"," + other + b"]}")

    def test_merges_the_format_of_openai(self) -> None:
        one = b'{"object":"list","data":[{"id":"a","object":"model","created":5,"owned_by":"x"}]}'
        two = b'{"object":"list","data":[{"id":"b","created":9},{"id":"c"},{"id":"a"}]}'
        merged = merge_lists(MODELS, [one, two])
        assert merged is not None
        told = json.loads(merged)
        self.assertEqual((told["object"], [m["id"] for m in told["data"]]), ("list", list("bac")))

    def test_accepts_any_number_as_time(self) -> None:
        numbers = ("1" + "0" * 400, "-1", "1.5", "1e300", "true", '"5"', "null")
        data = ",".join(f'{{"id":"{n}","created":{each}}}' for n, each in enumerate(numbers))
        merged = merge_lists(MODELS, [b'{"data":[' + data.encode() + b"]}"])
        assert merged is not None
        told = [model["id"] for model in json.loads(merged)["data"]]
        self.assertEqual((told[:3], told[-1]), (["0", "3", "2"], "1"))

    def test_sorts_running_models_by_expiry(self) -> None:
        one = b'{"models":[{"name":"a","expires_at":"2025-10-03T10:05:00Z"}]}'
        two = b'{"models":[{"name":"b","expires_at":"2318-01-01T00:00:00Z"}]}'
        self.assertEqual(names(merge_lists(PS, [one, two])), ["b", "a"])

    def test_keeps_an_empty_list(self) -> None:
        none = b'{"object":"list","data":null}'
        self.assertEqual(merge_lists(MODELS, [none, none]), none)
        self.assertEqual(
            merge_lists(TAGS, [b'{"models": []}', b'{"models":null}']), b'{"models":[]}'
        )
        self.assertEqual(names(merge_lists(TAGS, [b'{"models":null}', tags(("a", ""))])), ["a"])

    def test_omits_invalid_lists(self) -> None:
        good = tags(("a", ""))
        garbage: tuple[bytes, ...] = (
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"error":"no"}',
            b'{"models":{}}',
            b'{"models":[1]}',
            b'{"models":[{}]}',
            b'{"models":[{"name":5}]}',
            b'{"models":[{"name":"b","modified_at":1e999}]}',
            b'{"models":[{"name":"\xff"}]}',
            b'{"models":[{"name":"b","x":"\xff"}]}',
            b'{"models":[{"name":"\\ud800"}]}',
            b'{"models":[{"name":"b","x":"\n"}]}',
            good + b"{}",
            good[:-1],
            b'{"models":[{"name":"b","x":' + b"[" * 500_000,
            b'{"models":[{"name":"b","x":' + b"[" * 400_000 + b"]" * 400_000 + b"}]}",
        )
        for body in garbage:
            self.assertEqual(names(merge_lists(TAGS, [body, good])), ["a"], body[:60])
        self.assertIsNone(merge_lists(TAGS, garbage))
        self.assertIsNone(merge_lists(TAGS, []))

    @given(st.lists(st.binary(max_size=60), max_size=3))
    def test_accepts_any_bodies(self, bodies: list[bytes]) -> None:
        merged = merge_lists(TAGS, [b'{"models":[' + body + b"]}" for body in bodies])
        assert merged is None or json.loads(merged)
