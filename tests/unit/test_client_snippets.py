"""Tests of `ctllm.client_snippets`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.client_snippets import (
    CLIENTS,
    Step,
    Target,
    find_client,
    format_common_clients,
    format_instructions,
    format_json,
    format_page,
)
from ctllm.errors import BadRequest

ROOT = Path(__file__).parents[2]
CLOUD = Target("https://c.example/", "ctllm-k-1", "qwen3:4b")
ENDPOINT = Target("http://127.0.0.1:11435", model="qwen3:4b")


class TableTests(TestCase):
    def test_docs_clients_md_is_generated_from_the_table(self) -> None:
        self.assertEqual((ROOT / "docs/clients.md").read_text(), format_page())

    def test_the_clients_of_the_page_are_generated_from_the_table(self) -> None:
        generated = (ROOT / "web/src/settings/snippets.json").read_text()
        self.assertEqual(generated, format_json(), "not current; update it with: make clients")
        names = [each["name"] for each in json.loads(generated)]
        self.assertEqual(names, [client.name for client in CLIENTS])

    def test_names_are_unique_words(self) -> None:
        names = [client.name for client in CLIENTS]
        self.assertEqual(len(set(names)), len(names))
        for name in names:
            self.assertRegex(name, r"\A[a-z][a-z-]*\Z")
            self.assertIs(find_client(name.upper()), find_client(name))

    def test_has_each_promised_client(self) -> None:
        promised = (
            "curl ollama ollama-launch claude-code codex opencode continue aider llm open-webui "
            "litellm langchain llama-index pydantic-ai openai-agents instructor dspy ai-sdk cline "
            "copilot qwen-code"
        )
        self.assertLessEqual(set(promised.split()), {client.name for client in CLIENTS})

    def test_the_agents_sdk_sends_no_traces(self) -> None:
        """Traces and the key would be sent to its vendor."""
        for target in ((ENDPOINT, None), (None, CLOUD)):
            text = format_instructions(find_client("openai-agents"), *target)
            self.assertIn("OPENAI_AGENTS_DISABLE_TRACING=1", text)

    def test_the_endpoint_precedes_the_cloud_and_needs_no_key(self) -> None:
        """No placeholder remains."""
        for client in CLIENTS:
            endpoint, _, cloud = format_instructions(client, ENDPOINT, CLOUD).partition(
                "From anywhere"
            )
            self.assertIn("127.0.0.1:11435", endpoint)
            self.assertNotIn("ctllm-k-1", endpoint)
            self.assertEqual(
                "https://c.example" in cloud, not client.cloud_unsupported, client.name
            )
            self.assertEqual("ctllm-k-1" in cloud, client.needs_key, client.name)
            for placeholder in ("<URL>", "<KEY>", "<MODEL>", "example//"):
                self.assertNotIn(placeholder, endpoint + cloud)

    def test_only_ollama_uses_the_cloud_without_a_key(self) -> None:
        without = {each.name for each in CLIENTS if each.cloud_steps and not each.needs_key}
        self.assertEqual(without, {"ollama"})
        self.assertNotIn("API key", format_instructions(find_client("ollama"), None, CLOUD))

    def test_a_key_is_never_an_argument_of_a_program(self) -> None:
        for client in CLIENTS:
            for step in (*client.endpoint_steps, *client.cloud_steps):
                for line in step.text.splitlines():
                    if "<KEY>" in line and not step.file:
                        self.assertRegex(line, r"^export ", client.name)

    def test_configuration_files_of_clients_are_valid(self) -> None:
        for client in CLIENTS:
            for step in map(CLOUD.render, (*client.endpoint_steps, *client.cloud_steps)):
                if step.file.endswith(".toml"):
                    tomllib.loads(step.text)
                if step.file.endswith(".json"):
                    msgspec.json.decode(step.text)

    def test_what_ollama_launches_has_no_key_for_the_cloud(self) -> None:
        text = format_instructions(find_client("ollama-launch"), None, CLOUD)
        self.assertIn("gives the program no API key", text)


class TargetTests(TestCase):
    def test_replaces_unsafe_model_names_by_the_placeholder(self) -> None:
        for model in ("a b", "$(reboot)", "`x`", "m\nx", "m'x", 'm"x', "-rf", "", "m;x", "\u1234"):
            filled = Target("http://h:1", model=model).render(Step("<MODEL>"))
            self.assertEqual(filled.text, "MODEL", model)
        for model in ("llama3.2", "qwen3:4b", "hf.co/a/B-c_d:Q4_K_M"):
            self.assertEqual(Target("http://h:1", model=model).render(Step("<MODEL>")).text, model)

    def test_refuses_unsafe_urls_and_keys(self) -> None:
        for url in ("", "x", "file:///x", "http://a b", "http://h/$(x)", "http://h'", "http://h\n"):
            self.assertRaises(BadRequest, Target(url).render, Step("<URL>"))
        for key in ("a b", "$x", "'"):
            self.assertRaises(BadRequest, Target("http://h", key).render, Step("<KEY>"))
        self.assertEqual(Target("http://[::1]:80/").render(Step("<URL>")).text, "http://[::1]:80")

    def test_refuses_a_key_that_looks_like_a_placeholder(self) -> None:
        self.assertRaises(BadRequest, Target("http://h", "<MODEL>").render, Step("<KEY>"))

    def test_common_clients_set_each_variable_once_in_indented_lines(self) -> None:
        lines = format_common_clients(CLOUD)
        for variable in ("OLLAMA_HOST=", "OPENAI_BASE_URL=", "curl https"):
            self.assertEqual(lines.count(variable), 1)
        for line in lines.splitlines()[1:-1]:
            self.assertTrue(not line or line.startswith("  ") or line.startswith("For "), line)
