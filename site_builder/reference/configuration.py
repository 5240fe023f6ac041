"""The reference of the configuration, from its schema."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import inspect

from ctllm.config import KEYS, TABLES, Key
from site_builder.reference.markdown import code, escape, join

_TITLES = {
    "": ("Top level", "These keys stand before the first section."),
    "cloud": ("[cloud]", "The cloud."),
    "desktop": ("[desktop]", "The desktop, beside Ollama."),
    "proxy": (
        "[proxy]",
        "Tunnels and streaming proxies. The cloud hands these to the proxies that it starts, and a "
        "desktop uses those about tunnels.",
    ),
}


def render_configuration() -> str:
    """Return a section for each table of the file, and in it an entry for each key."""
    sections = []
    for name, (title, purpose) in _TITLES.items():
        keys = [key for key in KEYS.values() if key.section == name]
        sections.append(join(f"## {escape(title)}", purpose, *map(_render_key, keys)))
    for name, table_keys in TABLES.items():
        sections.append(_render_table(name, table_keys.values()))
    return join(*sections)


def anchor(full_name: str) -> str:
    """Return the anchor of a key: `cloud-listen` for `cloud.listen`."""
    return full_name.replace(".", "-").replace("_", "-").lower()


def describe_type(kind: inspect.Type) -> str:
    """Return what values a key takes, as Markdown."""
    match kind:
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(code(f'"{value}"') for value in values)
        case inspect.IntType(ge=least, le=greatest):
            limits = [f"at least {least}"] if least is not None else []
            limits += [f"at most {greatest}"] if greatest is not None else []
            return ", ".join(["whole number", " and ".join(limits)] if limits else ["whole number"])
        case inspect.StrType(max_length=int(length)):
            return f"string of at most {length} characters"
        case inspect.StrType():
            return "string"
        case inspect.BoolType():
            return "true or false"
    return "list of strings"


def format_value(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _render_table(name: str, keys: Iterable[Key]) -> str:
    return join(
        f"## {escape(f'[{name}.NAME]')}",
        "A table for each, with a name of your choice. Its keys are no options.",
        *map(_render_key, keys),
    )


def _render_key(key: Key) -> str:
    facts = [f"Type: {describe_type(key.kind)}", f"Default: {_describe_default(key)}"]
    if key.section not in TABLES:
        facts.append(f"Option: {code(f'--{key.option}')}")
    return join(
        f"({anchor(key.full_name)})=\n### {code(key.full_name)}",
        escape(key.description),
        "\n".join(f"- {fact}" for fact in facts),
    )


def _describe_default(key: Key) -> str:
    is_scalar = isinstance(key.default, str | int | tuple)
    return code(format_value(key.default)) if is_scalar else "none, the key is required"
