"""What each client needs to use ctllm: one table for `ctllm connect`, docs/clients.md and tests.

Each entry has the lines for the endpoint of a desktop, which needs no key, and for the cloud. They
are for a POSIX shell and work as they are printed. A key stands in the environment or in a file of
the client, never among the arguments of a program, which others on the machine can read.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches

from ctllm.errors import BadRequest

#: Stands for a model where none is known.
PLACEHOLDER_MODEL = "MODEL"
#: Where a client insists on a key that the endpoint does not need.
DUMMY_KEY = "none"
_EXAMPLES = ("http://127.0.0.1:11435", "https://ctllm.example.org", "YOUR-KEY")
#: What may stand in a shell's line, in JSON and in YAML without being more than itself.
_SAFE_URL = re.compile(r"https?://[A-Za-z0-9._~:%\[\]/-]+")
_SAFE_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_SAFE_KEY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Step:
    """Lines for the shell, or, where `file` names it, for a file or a form."""

    text: str
    file: str = ""


@dataclass(frozen=True)
class Client:
    """A client as `ctllm connect` knows it; <URL>, <KEY> and <MODEL> stand for themselves.

    `endpoint` are its steps at the endpoint, `cloud` those at the cloud where they differ; where it
    cannot use the cloud, `cloud_unsupported` says why. `verified` says how the lines are known to be right.
    """

    name: str
    title: str
    endpoint_steps: tuple[Step, ...]
    verified: str
    cloud_override: tuple[Step, ...] = ()
    note: str = ""
    cloud_unsupported: str = ""

    @property
    def cloud_steps(self) -> tuple[Step, ...]:
        """The steps at the cloud; none where it cannot be used."""
        return () if self.cloud_unsupported else self.cloud_override or self.endpoint_steps


@dataclass(frozen=True)
class Target:
    """Where a client is pointed at: a URL, a key if one is needed, and a model."""

    url: str
    key: str = ""
    model: str = PLACEHOLDER_MODEL

    def render(self, step: Step) -> Step:
        """The step for this target; raises BadRequest for what would not stay one word."""
        if not _SAFE_URL.fullmatch(self.url):
            raise BadRequest(f"{self.url!r} is no address that can be pasted")
        if self.key and not _SAFE_KEY.fullmatch(self.key):
            raise BadRequest("the API key has characters that no key has")
        model = self.model if _SAFE_MODEL.fullmatch(self.model) else PLACEHOLDER_MODEL
        text = step.text.replace("<URL>", self.url.rstrip("/"))
        text = text.replace("<KEY>", self.key or DUMMY_KEY).replace("<MODEL>", model)
        return Step(text, step.file)


#: How the lines of a step are headed.
FILE_HEADING, SHELL_HEADING = "In ", "In a shell:"
_ENDPOINT_HEADING = "On this machine, by its endpoint (no key is needed):"
_CLOUD_HEADING = "From anywhere, by the cloud:"
_PREFACE = """\
# Clients

What each client needs to use your models. `ctllm connect CLIENT` prints the same with your
addresses, an API key of yours and a model that you have; `ctllm connect` lists the clients. The
endpoint is that of a ctllm desktop on the machine of the client (`desktop.listen`). Lines are for
a POSIX shell. On this page the endpoint has its default address, `https://ctllm.example.org` stands
for your cloud, `YOUR-KEY` for an API key and `MODEL` for a model's name.

This page is made from the table in `ctllm/client_snippets.py`: `make clients` writes it."""

#: How it is known that lines are right.
TESTED = "run by the tests"
COMPATIBILITY = "run by `make compatibility`"
_CLI_SENDS_NO_KEY = (
    "The program `ollama` sends no API key, so it cannot use the cloud by itself. Install a ctllm "
    "desktop beside it and use that desktop's endpoint."
)


def _by_hand(version: str) -> str:
    return f"run by hand with {version}"


def _documented(source: str) -> str:
    return f"from {source}, not run"


def _shell(*texts: str) -> tuple[Step, ...]:
    """Lines for the shell. The endpoint does not look at a key: the same lines do for both."""
    return tuple(map(Step, texts))


def _python(environment: str, program: str) -> tuple[Step, ...]:
    return _shell(f"export {environment}\npython3 - <<'END'\n{program.strip()}\nEND")


def _node(environment: str, program: str) -> tuple[Step, ...]:
    text = f"export {environment}\nnode --input-type=module - <<'END'\n{program.strip()}\nEND"
    return _shell(text)


_OLLAMA = "OLLAMA_HOST=<URL> OLLAMA_API_KEY=<KEY>"
_OPENAI = "OPENAI_BASE_URL=<URL>/v1 OPENAI_API_KEY=<KEY>"
_GENERATE = """'{"model": "<MODEL>", "prompt": "Say hello."}'"""

CLIENTS = (
    Client(
        "curl",
        "curl",
        endpoint_steps=(Step(f"curl <URL>/api/generate -d {_GENERATE}"),),
        cloud_override=(
            Step(
                "export OLLAMA_API_KEY=<KEY>\n"
                "printf 'Authorization: Bearer %s' \"$OLLAMA_API_KEY\" |\n"
                f"  curl <URL>/api/generate -H @- -d {_GENERATE}"
            ),
        ),
        verified=TESTED,
        note="`-H @-` reads the header from standard input: arguments can be read by others.",
    ),
    Client(
        "ollama",
        "Ollama's program (`ollama run`, `ollama list`)",
        endpoint_steps=(Step('export OLLAMA_HOST=<URL>\nollama run <MODEL> "Say hello."'),),
        verified=_documented("Ollama's source"),
        cloud_unsupported=_CLI_SENDS_NO_KEY,
    ),
    Client(
        "ollama-launch",
        "`ollama launch` (claude, codex, opencode, …)",
        endpoint_steps=(Step("export OLLAMA_HOST=<URL>\nollama launch claude --model <MODEL>"),),
        verified=_documented("Ollama's source"),
        cloud_unsupported=_CLI_SENDS_NO_KEY,
    ),
    Client(
        "ollama-python",
        "Ollama's client for Python",
        _python(
            _OLLAMA,
            """
import ollama

messages = [{"role": "user", "content": "Say hello."}]
print(ollama.chat("<MODEL>", messages).message.content)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "ollama-js",
        "Ollama's client for JavaScript",
        _node(
            _OLLAMA,
            """
import { Ollama } from "ollama"

const { OLLAMA_HOST: host, OLLAMA_API_KEY: key } = process.env
const ollama = new Ollama({ host, headers: { Authorization: `Bearer ${key}` } })
const messages = [{ role: "user", content: "Say hello." }]
console.log((await ollama.chat({ model: "<MODEL>", messages })).message.content)
""",
        ),
        verified=TESTED,
        note="It reads neither variable by itself: its key goes to ollama.com alone.",
    ),
    Client(
        "openai",
        "OpenAI's client for Python, and whatever is built on it",
        _python(
            _OPENAI,
            """
from openai import OpenAI

messages = [{"role": "user", "content": "Say hello."}]
answer = OpenAI().chat.completions.create(model="<MODEL>", messages=messages)
print(answer.choices[0].message.content)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "openai-js",
        "OpenAI's client for JavaScript, and whatever is built on it",
        _node(
            _OPENAI,
            """
import OpenAI from "openai"

const messages = [{ role: "user", content: "Say hello." }]
const answer = await new OpenAI().chat.completions.create({ model: "<MODEL>", messages })
console.log(answer.choices[0].message.content)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "anthropic",
        "Anthropic's client for Python",
        _python(
            "ANTHROPIC_BASE_URL=<URL> ANTHROPIC_AUTH_TOKEN=<KEY>",
            """
from anthropic import Anthropic

messages = [{"role": "user", "content": "Say hello."}]
answer = Anthropic().messages.create(model="<MODEL>", max_tokens=1000, messages=messages)
print(answer.content[0].text)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "claude-code",
        "Claude Code",
        _shell(
            "export ANTHROPIC_BASE_URL=<URL> ANTHROPIC_AUTH_TOKEN=<KEY> ANTHROPIC_API_KEY=\n"
            "claude --model <MODEL>"
        ),
        verified=_by_hand("2.1.197"),
        note="It needs a context of 64k tokens or more (`OLLAMA_CONTEXT_LENGTH` at Ollama).",
    ),
    Client(
        "codex",
        "Codex",
        (
            Step(
                'model = "<MODEL>"\n'
                'model_provider = "ctllm"\n'
                "\n"
                "[model_providers.ctllm]\n"
                'name = "ctllm"\n'
                'base_url = "<URL>/v1"\n'
                'env_key = "CTLLM_API_KEY"\n'
                'wire_api = "responses"',
                "~/.codex/ctllm.config.toml",
            ),
            Step("export CTLLM_API_KEY=<KEY>\ncodex --profile ctllm"),
        ),
        verified=_by_hand("0.171.0"),
        note="It needs a context of 64k tokens or more (`OLLAMA_CONTEXT_LENGTH` at Ollama).",
    ),
    Client(
        "opencode",
        "opencode",
        (
            Step(
                "{\n"
                '  "$schema": "https://opencode.ai/config.json",\n'
                '  "provider": {\n'
                '    "ctllm": {\n'
                '      "npm": "@ai-sdk/openai-compatible",\n'
                '      "name": "ctllm",\n'
                '      "options": {"baseURL": "<URL>/v1", "apiKey": "{env:CTLLM_API_KEY}"},\n'
                '      "models": {"<MODEL>": {"name": "<MODEL>"}}\n'
                "    }\n"
                "  }\n"
                "}",
                "~/.config/opencode/opencode.json",
            ),
            Step("export CTLLM_API_KEY=<KEY>\nopencode --model ctllm/<MODEL>"),
        ),
        verified=_by_hand("1.18.33"),
    ),
    Client(
        "continue",
        "Continue",
        endpoint_steps=(
            _continue := Step(
                "name: ctllm\n"
                "version: 1.0.0\n"
                "schema: v1\n"
                "models:\n"
                "  - name: <MODEL>\n"
                "    provider: ollama\n"
                "    model: <MODEL>\n"
                "    apiBase: <URL>",
                "~/.continue/config.yaml",
            ),
        ),
        cloud_override=(
            Step(
                _continue.text + "\n    apiKey: ${{ secrets.CTLLM_API_KEY }}",
                "~/.continue/config.yaml",
            ),
            Step("CTLLM_API_KEY=<KEY>", "~/.continue/.env"),
        ),
        verified=_documented("its documents"),
    ),
    Client(
        "aider",
        "aider",
        endpoint_steps=(Step("export OLLAMA_API_BASE=<URL>\naider --model ollama_chat/<MODEL>"),),
        cloud_override=(
            Step(
                "export OPENAI_API_BASE=<URL>/v1 OPENAI_API_KEY=<KEY>\naider --model openai/<MODEL>"
            ),
        ),
        verified=_documented("its documents"),
    ),
    Client(
        "llm",
        "llm (with llm-ollama)",
        _shell(f'export {_OLLAMA}\nllm -m ollama/<MODEL> "Say hello."'),
        verified=COMPATIBILITY,
        note="Once: `llm install llm-ollama`.",
    ),
    Client(
        "open-webui",
        "Open WebUI",
        endpoint_steps=(Step("export OLLAMA_BASE_URL=<URL>\nopen-webui serve"),),
        cloud_override=(
            Step(
                "export ENABLE_OLLAMA_API=false\n"
                "export OPENAI_API_BASE_URL=<URL>/v1 OPENAI_API_KEY=<KEY>\n"
                "open-webui serve"
            ),
        ),
        verified=_documented("its documents"),
        note="It keeps what it was told first: later changes are made in its admin settings.",
    ),
    Client(
        "litellm",
        "LiteLLM",
        _python(
            "OLLAMA_API_BASE=<URL> OLLAMA_API_KEY=<KEY>",
            """
import litellm

messages = [{"role": "user", "content": "Say hello."}]
answer = litellm.completion(model="ollama_chat/<MODEL>", messages=messages)
print(answer.choices[0].message.content)
""",
        ),
        verified=COMPATIBILITY,
    ),
    Client(
        "langchain",
        "LangChain (langchain-ollama)",
        _python(
            _OLLAMA,
            """
from langchain_ollama import ChatOllama

print(ChatOllama(model="<MODEL>").invoke("Say hello.").content)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "llama-index",
        "LlamaIndex (llama-index-llms-ollama)",
        _python(
            "OLLAMA_API_KEY=<KEY>",
            """
from llama_index.llms.ollama import Ollama

print(Ollama(model="<MODEL>", base_url="<URL>", request_timeout=300.0).complete("Say hello."))
""",
        ),
        verified=COMPATIBILITY,
    ),
    Client(
        "pydantic-ai",
        "Pydantic AI",
        _python(
            "OLLAMA_BASE_URL=<URL>/v1 OLLAMA_API_KEY=<KEY>",
            """
from pydantic_ai import Agent

print(Agent("ollama:<MODEL>").run_sync("Say hello.").output)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "openai-agents",
        "OpenAI's Agents SDK",
        _python(
            f"{_OPENAI} OPENAI_AGENTS_DISABLE_TRACING=1",
            """
from agents import Agent, Runner

agent = Agent(name="Assistant", model="<MODEL>")
print(Runner.run_sync(agent, "Say hello.").final_output)
""",
        ),
        verified=TESTED,
        note="Without OPENAI_AGENTS_DISABLE_TRACING it sends traces, and the key, to its vendor.",
    ),
    Client(
        "instructor",
        "Instructor",
        _python(
            _OPENAI,
            """
import instructor
from openai import OpenAI
from pydantic import BaseModel

class Greeting(BaseModel):
    text: str

client = instructor.from_openai(OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
messages = [{"role": "user", "content": "Say hello."}]
print(client.chat.completions.create(model="<MODEL>", messages=messages, response_model=Greeting))
""",
        ),
        verified=COMPATIBILITY,
    ),
    Client(
        "dspy",
        "DSPy",
        _python(
            "OPENAI_API_KEY=<KEY>",
            """
import os
import dspy

key = os.environ["OPENAI_API_KEY"]
model = dspy.LM("openai/<MODEL>", api_base="<URL>/v1", api_key=key)
print(model("Say hello.")[0])
""",
        ),
        verified=COMPATIBILITY,
    ),
    Client(
        "ai-sdk",
        "The AI SDK (`ai`, with @ai-sdk/openai-compatible)",
        _node(
            _OPENAI,
            """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateText } from "ai"

const { OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: apiKey } = process.env
const ctllm = createOpenAICompatible({ name: "ctllm", baseURL, apiKey })
console.log((await generateText({ model: ctllm("<MODEL>"), prompt: "Say hello." })).text)
""",
        ),
        verified=TESTED,
    ),
    Client(
        "cline",
        "Cline",
        endpoint_steps=(
            _cline := Step(
                "API Provider: Ollama\nUse custom base URL: <URL>\nModel: <MODEL>",
                "Cline's settings, API Configuration",
            ),
        ),
        cloud_override=(Step(_cline.text + "\nOllama API Key: <KEY>", _cline.file),),
        verified=_documented("Ollama's documents"),
    ),
    Client(
        "copilot",
        "GitHub Copilot's program",
        _shell(
            "export COPILOT_PROVIDER_BASE_URL=<URL>/v1 COPILOT_PROVIDER_API_KEY=<KEY>\n"
            "export COPILOT_PROVIDER_WIRE_API=responses COPILOT_MODEL=<MODEL>\n"
            "copilot"
        ),
        verified=_documented("Ollama's documents"),
    ),
    Client(
        "qwen-code",
        "Qwen Code",
        _shell(f"export {_OPENAI} OPENAI_MODEL=<MODEL>\nqwen"),
        verified=_by_hand("0.15.10"),
    ),
)
_BY_NAME = {client.name: client for client in CLIENTS}


def find_client(name: str) -> Client:
    """The client of that name; raises BadRequest with the nearest one, and where all are."""
    found = _BY_NAME.get(name.lower())
    if found is None:
        near = get_close_matches(name.lower(), _BY_NAME, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadRequest(f"no client is called {name!r}{hint} (ctllm connect lists them)")
    return found


def format_instructions(client: Client, endpoint: Target | None, cloud: Target | None) -> str:
    """What to paste for a client, by each target that there is; the endpoint comes first."""
    parts = [client.title]
    if client.note:
        parts.append(client.note)
    if endpoint is not None:
        parts += [_ENDPOINT_HEADING, *_texts(client.endpoint_steps, endpoint)]
    if cloud is not None:
        parts += [
            _CLOUD_HEADING,
            *(_texts(client.cloud_steps, cloud) or [client.cloud_unsupported]),
        ]
    return "\n\n".join(parts)


def _texts(steps: tuple[Step, ...], target: Target) -> list[str]:
    texts = []
    for step in map(target.render, steps):
        texts += (
            [f"{FILE_HEADING}{step.file}:", step.text] if step.file else [SHELL_HEADING, step.text]
        )
    return texts


def format_common_clients(cloud: Target) -> str:
    """For the clients that most have: shell lines that work as they are."""
    steps = (
        ("curl", _BY_NAME["curl"].cloud_steps[0]),
        ("Ollama's client for Python", Step(f"export {_OLLAMA}")),
        ("OpenAI's clients, and whatever is built on them", Step(f"export {_OPENAI}")),
    )
    blocks = [f"# {what}\n{cloud.render(step).text}" for what, step in steps]
    pasted = "\n\n".join(blocks).replace("\n", "\n  ").replace("\n  \n", "\n\n")
    return (
        "Paste these, here or on any machine that reaches the cloud:\n\n"
        f"  {pasted}\n\nFor any other client: ctllm connect CLIENT\n"
    )


def format_client_list() -> str:
    """The names and titles of all clients."""
    width = max(map(len, _BY_NAME))
    return "\n".join(f"  {client.name:{width}}  {client.title}" for client in CLIENTS)


def format_page() -> str:
    """docs/clients.md as it should be."""
    endpoint, cloud = Target(_EXAMPLES[0]), Target(_EXAMPLES[1], _EXAMPLES[2])
    return (
        "\n\n".join([_PREFACE, *(_section(client, endpoint, cloud) for client in CLIENTS)]) + "\n"
    )


def _section(client: Client, endpoint: Target, cloud: Target) -> str:
    parts = [f"## {client.title}", f"`ctllm connect {client.name}`; {client.verified}."]
    parts += [_ENDPOINT_HEADING, *_fenced(client.endpoint_steps, endpoint)]
    parts += [_CLOUD_HEADING, *(_fenced(client.cloud_steps, cloud) or [client.cloud_unsupported])]
    if client.note:
        parts.append(client.note)
    return "\n\n".join(parts)


def _fenced(steps: tuple[Step, ...], target: Target) -> list[str]:
    texts = []
    for step in map(target.render, steps):
        if step.file:
            texts.append(f"{FILE_HEADING}`{step.file}`:")
        texts.append(f"```{'' if step.file else 'sh'}\n{step.text}\n```")
    return texts


if __name__ == "__main__":
    sys.stdout.write(format_page())
