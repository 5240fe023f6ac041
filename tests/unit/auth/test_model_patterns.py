"""`ctllm.auth.model_patterns`: names of models as Ollama understands them, and patterns of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.model_patterns import MAX_PATTERNS, ModelPatterns, parse_patterns
from ctllm.errors import BadRequest

#: A pattern, the names that match it, and names that do not.
TABLE = (
    # A name is what Ollama means by it, however it is written.
    (
        "llama3",
        "llama3 llama3:latest LLAMA3 Llama3:Latest library/llama3 "
        "registry.ollama.ai/library/llama3",
        "llama3:8b llama3.2 llama xllama3 alice/llama3 evil.example/library/llama3",
    ),
    ("Llama3:8B", "llama3:8b LLAMA3:8b", "llama3 llama3:latest llama3:8b-q4"),
    ("registry.ollama.ai/library/llama3:latest", "llama3", "llama3:8b"),
    # A pattern without a tag allows every tag.
    (
        "llama*",
        "llama llama3 llama3.2:1b llama3:latest library/llama3 LLAMA3",
        "allama codellama alice/llama3 llama.evil.example/a/b hf.co/llama/llama",
    ),
    ("llama?", "llama3 llama2:7b", "llama llama3.2"),
    # A tag is matched, too.
    ("llama*:8b", "llama3:8b llama3.1:8b", "llama3 llama3:8b-q4 llama3:70b"),
    ("qwen3:*", "qwen3 qwen3:4b qwen3:latest", "qwen3.5 qwen"),
    ("qwen3:4b-*", "qwen3:4b-q4", "qwen3:4b qwen3"),
    # A wildcard does not match a slash.
    ("*", "llama3 x:y", "alice/x hf.co/a/b"),
    ("*/*", "alice/x llama3", "hf.co/a/b"),
    ("hf.co/*/*", "hf.co/a/b hf.co/a/b:q4 HF.co/a/b", "a/b b evil.hf.co/a/b hf.co.evil/a/b"),
    ("localhost:5000/*/*", "localhost:5000/a/b", "localhost/a/b localhost:50001/a/b"),
    ("alice/*", "alice/x alice/y:z", "bob/x x hf.co/alice/x"),
)
#: What Ollama does not accept as a name, or reads in some way of its own.
NO_NAMES = (
    "", " ", "llama3 ", " llama3", "llama3\n", "llama3\0", "../llama3", "llama3/", "/llama3",
    "//llama3", "http://llama3", "https://registry.ollama.ai/library/llama3", "llama3:", ":latest",
    "llama3:8b:8b", "llama3@sha256", "a/b/c/llama3", "llama3%41", "llama\u017f", "\u212a",
    "llama3\\x", "*", "llama*", ".llama3", "-llama3", "llama3" * 200,
)  # fmt: skip


class ModelPatternsTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        for pattern, matching, others in TABLE:
            patterns = parse_patterns([pattern])
            for name in matching.split():
                self.assertTrue(patterns.match(name), (pattern, name))
            for name in others.split():
                self.assertFalse(patterns.match(name), (pattern, name))

    def test_a_name_that_ollama_would_not_accept_matches_nothing(self) -> None:
        patterns = parse_patterns(["*", "*/*", "*/*/*", "llama3", "llama*:*"])
        for name in NO_NAMES:
            self.assertFalse(patterns.match(name), name)

    def test_one_of_several_patterns_is_enough_and_none_allows_nothing(self) -> None:
        patterns = parse_patterns(["qwen3", "llama*"])
        self.assertTrue(patterns.match("llama3") and patterns.match("qwen3"))
        self.assertFalse(patterns.match("mistral"))
        self.assertFalse(parse_patterns([]).match("llama3"))

    def test_refuses_malformed_patterns(self) -> None:
        for text in (
            "", " ", "a b", "a,b", "a/", "/a", "a/b/c/d", "a:b:c", "a\n", "[a]", "a@b", "http://a/b/c",
            "\u017f", "a" * 129,
        ):  # fmt: skip
            self.assertRaises(BadRequest, parse_patterns, [text])
        self.assertRaises(BadRequest, parse_patterns, ["a"] * (MAX_PATTERNS + 1))

    def test_a_hostile_pattern_takes_little_work(self) -> None:
        """As a regular expression it would take years."""
        patterns = parse_patterns(["*a" * 60 + "b"] * MAX_PATTERNS)
        self.assertFalse(patterns.match("a" * 599))

    @given(st.text("ab*?", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8))
    def test_wildcards_match_as_in_a_regular_expression(self, pattern: str, name: str) -> None:
        import re

        expected = re.fullmatch(pattern.replace("*", "[^/]*").replace("?", "[^/]"), name)
        found = ModelPatterns.match(parse_patterns([pattern]), name)
        self.assertEqual(found, expected is not None)
