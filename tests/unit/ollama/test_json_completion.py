"""Objects that were cut off, completed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.ollama.json_completion import missing_suffix

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
MEMBER = b'"error":{"message":"gone"}'


class CompletionTests(SynchronousTestCase):
    """Completion of truncated objects."""

    @given(OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.data())
    @example({"a": "\u00e9\u65e5\U0001f600"}, False, None, None)
    def test_completes_an_object_cut_at_any_byte(
        self, whole: Any, ascii: bool, indent: int | None, data: Any
    ) -> None:
        text = json.dumps(whole, ensure_ascii=ascii, indent=indent).encode("utf-8", "replace")
        cuts = range(1, len(text)) if data is None else [data.draw(st.integers(1, len(text) - 1))]
        for cut in cuts:
            for member in (b"", MEMBER):
                rest = missing_suffix(text[:cut], member)
                assert rest, (text, cut)
                found = json.loads((text[:cut] + rest).decode())
                self.assertIsInstance(found, dict)
                if member:
                    self.assertEqual(found["error"], {"message": "gone"})

    def test_keeps_partial_values(self) -> None:
        for text, found in (
            ('{"a":"b', {"a": "b"}),
            ('{"a":{"b":[1,2', {"a": {"b": [1, 2]}}),
            ('{"a":[1,', {"a": [1, None]}),
            ('{"a":-', {"a": 0}),
            ('{"a":1.', {"a": 1.0}),
            ('{"a":2e', {"a": 2.0}),
            ('{"a":f', {"a": False}),
            ('{"a":"\\', {"a": "\\"}),
            ('{"a":"\\n', {"a": "\n"}),
            ('{"a":"\\u00e9', {"a": "\u00e9"}),
            ('{"a":"\\ud83d', {"a": "\U0001f400"}),
            ('{"a":1}', {"a": 1}),
            ('{"a":1} ', {"a": 1}),
        ):
            rest = missing_suffix(text.encode())
            assert rest is not None, text
            self.assertEqual(json.loads(text.encode() + rest), found)

    def test_rejects_other_json(self) -> None:
        for text in (
            b"", b" ", b"x", b"[1", b'"a', b"1", b"}", b"{1", b'{"a"1', b'{"a":x', b'{"a":1,,',
            b'{"a":1}x', b'{"a":1}{', b'{"a":1]', b'{"a":[1}', b'{"a":"\\x', b"{,",
            b'{"a":01',
        ):  # fmt: skip
            self.assertIsNone(missing_suffix(text, MEMBER), text)

    @given(st.binary())
    def test_accepts_any_bytes(self, text: bytes) -> None:
        missing_suffix(text, MEMBER)
