"""Setup instructions for clients: one table for `ctllm connect`, docs/clients.md, page and tests.

Each client has steps for a desktop's endpoint, which needs no API key, and for the cloud. Shell
lines are for a POSIX shell and work as printed. A key is in the environment or in a file of the
client, never among the arguments of a program, which other users of the machine can read.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from difflib import get_close_matches

from ctllm.errors import BadRequest

#: The model in examples if none is known.
PLACEHOLDER_MODEL = "MODEL"
#: The key for clients that require one when the endpoint does not.
DUMMY_KEY = "none"
#: What stands for an API key where none was created.
PLACEHOLDER_KEY = "YOUR-KEY"
_EXAMPLES = ("http://127.0.0.1:11435", "https://ctllm.example.org", PLACEHOLDER_KEY)
#: Values that need no quoting in shell, JSON and YAML.
_SAFE_URL = re.compile(r"https?://[A-Za-z0-9._~:%\[\]/-]+")
_SAFE_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_SAFE_KEY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Step:
    """Lines for the shell, or for the file or settings form that `file` names."""

    text: str
    file: str = ""


@dataclass(frozen=True)
class Client:
    """A client of `ctllm connect`. Its steps have the placeholders <URL>, <KEY> and <MODEL>.

    `cloud_override` has the steps for the cloud if they differ from `endpoint_steps`. A client that
    cannot use the cloud has the reason in `cloud_unsupported`. `verified` tells how the steps were
    tested.
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
        """The steps for the cloud; empty if the client cannot use it."""
        return () if self.cloud_unsupported else self.cloud_override or self.endpoint_steps

    @property
    def needs_key(self) -> bool:
        """Whether the client sends an API key to the cloud."""
        return any("<KEY>" in step.text for step in self.cloud_steps)


@dataclass(frozen=True)
class Target:
    """The URL, API key (if needed) and model for a client."""

    url: str
    key: str = ""
    model: str = PLACEHOLDER_MODEL

    def render(self, step: Step) -> Step:
        """Return the step with its placeholders replaced. Raises BadRequest for unsafe values."""
        if not _SAFE_URL.fullmatch(self.url):
            raise BadRequest(f"{self.url!r} is not a URL that can be pasted safely")
        if self.key and not _SAFE_KEY.fullmatch(self.key):
            raise BadRequest("the API key contains characters that are not valid in a key")
        model = self.model if _SAFE_MODEL.fullmatch(self.model) else PLACEHOLDER_MODEL
        text = step.text.replace("<URL>", self.url.rstrip("/"))
        text = text.replace("<KEY>", self.key or DUMMY_KEY).replace("<MODEL>", model)
        return Step(text, step.file)


#: Headings of steps.
FILE_HEADING, SHELL_HEADING = "In ", "In a shell:"
_ENDPOINT_HEADING = "On this machine, with its desktop (no API key needed):"
_CLOUD_HEADING = "From anywhere, with the cloud:"
_PREFACE = """\
# Clients

How to set up each client. `ctllm connect CLIENT` prints the same with your URLs and one of your
models; with `--cloud` it creates an API key for the client, which is shown once. `ctllm connect`
lists the clients. Shell lines are for a POSIX shell. On this page,
`http://127.0.0.1:11435` is the desktop on the client's machine (`desktop.listen`),
`https://ctllm.example.org` is your cloud, `YOUR-KEY` an API key and `MODEL` the name of a model.

This page is generated from `ctllm/client_snippets.py`. To update it: `make clients`."""

#: How steps were verified.
TESTED = "tested"
COMPATIBILITY = "tested by `make compatibility`"
_LAUNCHED_SEND_NO_KEY = (
    "`ollama launch` gives the program no API key, so it cannot use the cloud directly. Install a "
    "ctllm desktop on the same machine and use its endpoint, or set up the program itself."
)


def _by_hand(version: str) -> str:
    return f"tested by hand with {version}"


def _documented(source: str) -> str:
    return f"from {source}, untested"


def _shell(*texts: str) -> tuple[Step, ...]:
    """Return steps for the shell. The endpoint ignores a key, so they work for the cloud, too."""
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
        note="`-H @-` reads the header from standard input: other users can read arguments.",
    ),
    Client(
        "ollama",
        "The `ollama` command (`ollama run`, `ollama list`)",
        endpoint_steps=(Step('export OLLAMA_HOST=<URL>\nollama run <MODEL> "Say hello."'),),
        cloud_override=(
            Step(
                "export OLLAMA_HOST=<URL> OLLAMA_AUTH=1\n"
                "ollama signin  # once: allow this machine on the page that opens\n"
                'ollama run <MODEL> "Say hello."'
            ),
        ),
        verified=_by_hand("ollama 0.17.4"),
        note="With OLLAMA_AUTH=1 it signs its requests with ~/.ollama/id_ed25519. Until the "
        "machine is allowed, other commands only say that something went wrong.",
    ),
    Client(
        "ollama-launch",
        "`ollama launch` (claude, codex, opencode, …)",
        endpoint_steps=(Step("export OLLAMA_HOST=<URL>\nollama launch claude --model <MODEL>"),),
        verified=_documented("Ollama's source"),
        cloud_unsupported=_LAUNCHED_SEND_NO_KEY,
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
        note="It does not read the variables by itself: it sends its key to ollama.com only.",
    ),
    Client(
        "openai",
        "OpenAI's client for Python, and libraries that use it",
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
        "OpenAI's client for JavaScript, and libraries that use it",
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
        note="It needs a context of at least 64k tokens (set `OLLAMA_CONTEXT_LENGTH` for Ollama).",
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
        note="It needs a context of at least 64k tokens (set `OLLAMA_CONTEXT_LENGTH` for Ollama).",
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
        verified=_documented("its documentation"),
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
        verified=_documented("its documentation"),
    ),
    Client(
        "llm",
        "llm (with llm-ollama)",
        _shell(f'export {_OLLAMA}\nllm -m ollama/<MODEL> "Say hello."'),
        verified=COMPATIBILITY,
        note="Run once: `llm install llm-ollama`.",
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
        verified=_documented("its documentation"),
        note="It stores these values at its first start. Change them later in its admin settings.",
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
        note="Without OPENAI_AGENTS_DISABLE_TRACING it sends traces and the key to OpenAI.",
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
        verified=_documented("Ollama's documentation"),
    ),
    Client(
        "copilot",
        "GitHub Copilot CLI",
        _shell(
            "export COPILOT_PROVIDER_BASE_URL=<URL>/v1 COPILOT_PROVIDER_API_KEY=<KEY>\n"
            "export COPILOT_PROVIDER_WIRE_API=responses COPILOT_MODEL=<MODEL>\n"
            "copilot"
        ),
        verified=_documented("Ollama's documentation"),
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
    """Return the client `name`. Raises BadRequest with the most similar name."""
    client = _BY_NAME.get(name.lower())
    if client is None:
        near = get_close_matches(name.lower(), _BY_NAME, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadRequest(f"there is no client {name!r}{hint} (for a list: ctllm connect)")
    return client


def format_instructions(client: Client, endpoint: Target | None, cloud: Target | None) -> str:
    """Return the instructions for a client and each target that is not None."""
    parts = [client.title]
    if client.note:
        parts.append(client.note)
    if endpoint is not None:
        parts += [_ENDPOINT_HEADING, *_format_steps(client.endpoint_steps, endpoint)]
    if cloud is not None:
        parts += [
            _CLOUD_HEADING,
            *(_format_steps(client.cloud_steps, cloud) or [client.cloud_unsupported]),
        ]
        if cloud.key == PLACEHOLDER_KEY and client.needs_key:
            parts.append(
                f"For a new API key in place of {PLACEHOLDER_KEY}: "
                f"ctllm connect {client.name} --cloud"
            )
    return "\n\n".join(parts)


def _format_steps(steps: tuple[Step, ...], target: Target) -> list[str]:
    texts = []
    for step in map(target.render, steps):
        texts += (
            [f"{FILE_HEADING}{step.file}:", step.text] if step.file else [SHELL_HEADING, step.text]
        )
    return texts


def format_common_clients(cloud: Target) -> str:
    """Return shell lines for curl, Ollama's client and OpenAI's client."""
    steps = (
        ("curl", _BY_NAME["curl"].cloud_steps[0]),
        ("Ollama's client for Python", Step(f"export {_OLLAMA}")),
        ("OpenAI's clients and libraries that use them", Step(f"export {_OPENAI}")),
    )
    blocks = [f"# {title}\n{cloud.render(step).text}" for title, step in steps]
    lines = "\n\n".join(blocks).replace("\n", "\n  ").replace("\n  \n", "\n\n")
    hint = (
        f"For a new API key in place of {PLACEHOLDER_KEY}: ctllm connect --cloud\n"
        if cloud.key == PLACEHOLDER_KEY
        else ""
    )
    return (
        "To use your models here, or on any machine that reaches the cloud, paste:\n\n"
        f"  {lines}\n\n{hint}For other clients: ctllm connect CLIENT\n"
    )


def format_client_list() -> str:
    """Return the names and titles of all clients, in columns."""
    width = max(map(len, _BY_NAME))
    return "\n".join(f"  {client.name:{width}}  {client.title}" for client in CLIENTS)


def format_page() -> str:
    """Return the text of docs/clients.md."""
    endpoint, cloud = Target(_EXAMPLES[0]), Target(_EXAMPLES[1], _EXAMPLES[2])
    return (
        "\n\n".join([_PREFACE, *(_format_section(client, endpoint, cloud) for client in CLIENTS)])
        + "\n"
    )


def _format_section(client: Client, endpoint: Target, cloud: Target) -> str:
    parts = [f"## {client.title}", f"`ctllm connect {client.name}`; {client.verified}."]
    parts += [_ENDPOINT_HEADING, *_format_fenced_steps(client.endpoint_steps, endpoint)]
    parts += [
        _CLOUD_HEADING,
        *(_format_fenced_steps(client.cloud_steps, cloud) or [client.cloud_unsupported]),
    ]
    if client.note:
        parts.append(client.note)
    return "\n\n".join(parts)


def _format_fenced_steps(steps: tuple[Step, ...], target: Target) -> list[str]:
    texts = []
    for step in map(target.render, steps):
        if step.file:
            texts.append(f"{FILE_HEADING}`{step.file}`:")
        texts.append(f"```{'' if step.file else 'sh'}\n{step.text}\n```")
    return texts


def format_json() -> str:
    """Return the table as JSON, with its placeholders, for the settings of the page."""
    clients = [
        {
            "name": client.name,
            "title": client.title,
            "needsKey": client.needs_key,
            "endpointSteps": list(map(asdict, client.endpoint_steps)),
            "cloudSteps": list(map(asdict, client.cloud_steps)),
            "cloudUnsupported": client.cloud_unsupported,
            "note": client.note,
            "verified": client.verified,
        }
        for client in CLIENTS
    ]
    return json.dumps(clients, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(format_json() if sys.argv[1:] == ["--json"] else format_page())
