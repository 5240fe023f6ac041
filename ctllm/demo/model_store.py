"""The models of the demo server, in memory, and which of them are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

from ctllm.common.json_decoder import JsonObject
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
    """Format seconds since the epoch as Ollama does, in microseconds and UTC."""
    whole = int(seconds)
    return f"{_format_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


def name_with_tag(name: str) -> str:
    """Return the name with its tag: `llama3.2:latest` for `llama3.2`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def parse_keep_alive(value: str | float | None) -> float:
    """Return the seconds of `keep_alive`: a number, or a duration like `5m`.

    A negative one means for ever. Raises BadRequest for an invalid duration.
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
    """One model. `name` has a tag, and `modified` is in seconds since the epoch."""

    name: str
    modified: float
    parent: str = ""
    system: str = ""
    template: str = "{{ .Prompt }}"
    parameters: str = ""
    license: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of the model's contents, in hexadecimal."""
        whole = (self.name, self.parent, self.system, self.template, self.parameters)
        return sha256(repr(whole).encode()).hexdigest()

    @property
    def details(self) -> JsonObject:
        """Ollama's `details`, which say that this is a demo."""
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
    def summary(self) -> JsonObject:
        """The entry in lists of models."""
        return {
            "name": self.name,
            "model": self.name,
            "size": 0,
            "digest": self.digest,
            "details": self.details,
        }


class ModelStore:
    """The models by name, the digests of uploaded blobs, and the loaded models."""

    def __init__(self, names: Iterable[str], now: float) -> None:
        self.models = {full: Model(full, now) for full in map(name_with_tag, names)}
        self.blobs: set[str] = set()
        self._loaded: dict[str, float] = {}

    def find(self, name: str) -> Model:
        """Return a model by its name, with or without a tag. Raises BadRequest or NotFound."""
        if not name:
            raise BadRequest("model is required")
        model = self.models.get(name_with_tag(name))
        if model is None:
            raise NotFound(f"model '{name}' not found")
        return model

    def put(self, model: Model) -> None:
        """Add a model, or replace the one with the same name."""
        self.models[model.name] = model

    def copy(self, source: str, destination: str, now: float) -> None:
        """Add a copy of a model under another name. Raises BadRequest or NotFound."""
        model = self.find(source)
        if not destination:
            raise BadRequest('destination "" is invalid')
        self.put(replace(model, name=name_with_tag(destination), modified=now))

    def remove(self, name: str) -> None:
        """Remove a model. Raises BadRequest or NotFound."""
        model = self.find(name)
        del self.models[model.name]
        self._loaded.pop(model.name, None)

    def load(self, name: str, until: float) -> None:
        """Count a model as loaded until a time, in seconds since the epoch."""
        self._loaded[name_with_tag(name)] = until

    def loaded(self, now: float) -> list[tuple[Model, float]]:
        """Return the loaded models, each with the time at which it is unloaded."""
        self._loaded = {name: until for name, until in self._loaded.items() if until > now}
        found = ((self.models.get(name), until) for name, until in self._loaded.items())
        return [(model, until) for model, until in found if model is not None]
