"""Each key of the sections as a value: how to name it, describe it and judge what is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct, inspect, structs

from ctllm.config.schema import Config
from ctllm.config.section import Section
from ctllm.errors import BadConfiguration


class Key(Struct, frozen=True, kw_only=True):
    """One key. `section` is empty at the top level; `kind` is its type without the limits."""

    section: str
    name: str
    annotation: Any
    kind: inspect.Type
    default: Any
    description: str
    check: Callable[[str], object] | None

    @property
    def option(self) -> str:
        """Its name on the command line, without the dashes in front."""
        return self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """What it is for, its choices and its default, in one line."""
        known = []
        if isinstance(self.kind, inspect.LiteralType):
            known.append(", ".join(map(str, self.kind.values)))
        if isinstance(self.kind, inspect.VarTupleType):
            known.append("several with commas between")
        if self.default not in ("", ()):
            known.append(f"default: {self.default}")
        return self.description + (f" [{'; '.join(known)}]" if known else "")

    def value(self, given: object, *, strict: bool = True) -> Any:
        """Judge a value as TOML has it, or where not `strict` also a number as text.

        Raises `BadConfiguration` saying what would be right.
        """
        try:
            value = msgspec.convert(given, self.annotation, strict=strict)
        except msgspec.ValidationError:
            raise BadConfiguration(f"must be {_expected(self.kind)}") from None
        if self.check:
            for text in [value] if isinstance(value, str) else value:
                self.check(text)
        return value

    def value_of_text(self, text: str) -> Any:
        """Judge a value from the command line: numbers as text, lists with commas between."""
        if isinstance(self.kind, inspect.VarTupleType):
            return self.value([part.strip() for part in text.split(",") if part.strip()])
        return self.value(text, strict=False)


def arguments(section: Section) -> list[str]:
    """Give every key of a section as command line options, to hand it to another process."""
    return [
        f"--{KEYS[name].option}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in structs.asdict(section).items()
    ]


def _keys(section: type[Struct], name: str) -> Iterator[Key]:
    for field in structs.fields(section):
        meta = inspect.type_info(field.type)
        assert isinstance(meta, inspect.Metadata)
        if isinstance(meta.type, inspect.StructType):
            yield from _keys(meta.type.cls, field.name)
        else:
            yield Key(
                section=name,
                name=field.name,
                annotation=field.type,
                kind=meta.type,
                default=field.default,
                description=(meta.extra_json_schema or {})["description"],
                check=(meta.extra or {}).get("check"),
            )


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=least, le=greatest):
            limits = f"at least {least}" + ("" if greatest is None else f" and at most {greatest}")
            return f"a whole number, {limits}"
        case inspect.LiteralType(values=values):
            *most, last = (f'"{value}"' for value in values)
            return f"{', '.join(most)} or {last}" if most else last
        case inspect.StrType(max_length=int(length)):
            return f"a text of at most {length} characters, in one line"
        case inspect.StrType():
            return "a text"
    return "a list of texts"


KEYS: Mapping[str, Key] = {key.name: key for key in _keys(Config, "")}
SECTIONS = frozenset(key.section for key in KEYS.values() if key.section)
