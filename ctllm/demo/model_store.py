"""The models that the stand-in claims to have, in memory, and which of them are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

from ctllm.errors import BadRequest, NotFound

DESCRIPTION = "A demo that repeats what you say. It is not a model."
CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding")
CONTEXT_LENGTH = 4096
DEFAULT_KEEP_ALIVE = 300.0
_FOR_EVER = 100 * 365 * 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@lru_cache(maxsize=8)
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def format_rfc3339(seconds: float) -> str:
    """Write a time as Ollama does, in microseconds and UTC."""
    whole = int(seconds)
    return f"{_format_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


def name_with_tag(name: str) -> str:
    """Name a model with its tag: `llama3.2` is `llama3.2:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def parse_keep_alive(value: str | float | None) -> float:
    """Read `keep_alive`: seconds, or a duration like `5m`; below zero is for ever.

    Raises BadRequest for what is no duration.
    """
    if value is None:
        return DEFAULT_KEEP_ALIVE
    seconds = _duration(value) if isinstance(value, str) else float(value)
    return _FOR_EVER if seconds < 0 else seconds


def _duration(text: str) -> float:
    if not re.fullmatch(r"-?((\d+(\.\d+)?)(ms|s|m|h))+|-?0", text):
        raise BadRequest(f'time: invalid duration "{text}"')
    total = sum(float(n) * _UNITS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text))
    return -total if text.startswith("-") else total


@dataclass(frozen=True)
class Model:
    """One model. `name` is with its tag, `modified` in seconds."""

    name: str
    modified: float
    parent: str = ""
    system: str = ""
    template: str = "{{ .Prompt }}"
    parameters: str = ""
    license: str = ""

    @property
    def digest(self) -> str:
        """A digest, in hexadecimal, of all that makes the model what it is."""
        whole = (self.name, self.parent, self.system, self.template, self.parameters)
        return sha256(repr(whole).encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """Give what Ollama calls the details, and a plain word that this is a demo."""
        return {
            "parent_model": self.parent,
            "format": "demo",
            "family": "demo",
            "families": ["demo"],
            "parameter_size": "0",
            "quantization_level": "none",
            "description": DESCRIPTION,
        }

    @property
    def summary(self) -> dict[str, Any]:
        """Give what lists of models say of one."""
        return {
            "name": self.name,
            "model": self.name,
            "size": 0,
            "digest": self.digest,
            "details": self.details,
        }


class ModelStore:
    """The models by name, the digests of the blobs that were uploaded, and what is loaded."""

    def __init__(self, names: Iterable[str], now: float) -> None:
        self.models = {full: Model(full, now) for full in map(name_with_tag, names)}
        self.blobs: set[str] = set()
        self._loaded: dict[str, float] = {}

    def find(self, name: str) -> Model:
        """Give the model of that name, with or without tag; raises BadRequest or NotFound."""
        if not name:
            raise BadRequest("model is required")
        model = self.models.get(name_with_tag(name))
        if model is None:
            raise NotFound(f"model '{name}' not found")
        return model

    def put(self, model: Model) -> None:
        """Add a model, or replace the one of that name."""
        self.models[model.name] = model

    def copy(self, source: str, destination: str, now: float) -> None:
        """Keep a model under another name too; raises BadRequest or NotFound."""
        model = self.find(source)
        if not destination:
            raise BadRequest('destination "" is invalid')
        self.put(replace(model, name=name_with_tag(destination), modified=now))

    def remove(self, name: str) -> None:
        """Forget a model; raises BadRequest or NotFound."""
        model = self.find(name)
        del self.models[model.name]
        self._loaded.pop(model.name, None)

    def load(self, name: str, until: float) -> None:
        """Count a model as loaded until then."""
        self._loaded[name_with_tag(name)] = until

    def loaded(self, now: float) -> list[tuple[Model, float]]:
        """Give the loaded models, each with the time until which it stays."""
        self._loaded = {name: until for name, until in self._loaded.items() if until > now}
        found = ((self.models.get(name), until) for name, until in self._loaded.items())
        return [(model, until) for model, until in found if model is not None]
