"""The keys of the schema as values: their names, help and conversion."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct, inspect, structs

from ctllm.config.schema import Config, Section
from ctllm.errors import BadConfiguration


class Key(Struct, frozen=True, kw_only=True):
    """A key of the configuration.

    `section` is empty at the top level. `kind` is the type without its limits. `option` is the
    name on the command line, without the leading dashes. The keys in `TABLES` are no options, and
    their section is that of the tables (`cloud.providers`).
    """

    section: str
    name: str
    annotation: Any
    kind: inspect.Type
    default: Any
    description: str
    check: Callable[[str], object] | None
    option: str

    @property
    def full_name(self) -> str:
        """The name with its section: `cloud.listen`."""
        return f"{self.section}.{self.name}".removeprefix(".")

    @property
    def help(self) -> str:
        """The description with the choices and the default, in one line."""
        notes = []
        if isinstance(self.kind, inspect.LiteralType):
            notes.append(", ".join(map(str, self.kind.values)))
        if isinstance(self.kind, inspect.VarTupleType):
            notes.append("comma-separated")
        if self.default not in ("", ()):
            shown = self.default
            notes.append(f"default: {', '.join(shown) if isinstance(shown, tuple) else shown}")
        return self.description + (f" [{'; '.join(notes)}]" if notes else "")

    def convert(self, given: object, *, strict: bool = True) -> Any:
        """Convert a TOML value; unless `strict`, also a number from its text.

        Raises BadConfiguration with the rest of a sentence: "must be …".
        """
        try:
            value = msgspec.convert(given, self.annotation, strict=strict)
        except msgspec.ValidationError:
            raise BadConfiguration(f"must be {_expected(self.kind)}") from None
        if self.check:
            for text in [value] if isinstance(value, str) else value:
                self.check(text)
        return value

    def convert_text(self, text: str) -> Any:
        """Convert an option's value: numbers from their text, lists separated by commas."""
        if isinstance(self.kind, inspect.VarTupleType):
            return self.convert([part.strip() for part in text.split(",") if part.strip()])
        return self.convert(text, strict=False)


def to_options(section: Section) -> list[str]:
    """Return the options that hand `section`, without its tables, to another process."""
    name = next(each for each, kind in _SECTION_TYPES.items() if kind is type(section))
    return [
        f"--{KEYS[f'{name}.{key}'].option}={','.join(value) if isinstance(value, tuple) else value}"
        for key, value in structs.asdict(section).items()
        if f"{name}.{key}" in KEYS
    ]


def suggest(name: str, known: Iterable[str], quoted: str) -> str:
    """Return `; did you mean …?` with the most similar known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {quoted.format(near[0])}?" if near else ""


def _keys(section: type[Struct], name: str) -> Iterator[Key]:
    for field in structs.fields(section):
        meta = inspect.type_info(field.type)
        assert isinstance(meta, inspect.Metadata)
        if isinstance(meta.type, inspect.StructType):
            yield from _keys(meta.type.cls, field.name)
        elif not isinstance(meta.type, inspect.DictType):
            extra = meta.extra or {}
            yield Key(
                section=name,
                name=field.name,
                annotation=field.type,
                kind=meta.type,
                default=field.default,
                description=(meta.extra_json_schema or {})["description"],
                check=extra.get("check"),
                option=extra.get("option") or field.name.replace("_", "-"),
            )


def _tables(section: type[Struct], name: str) -> Iterator[tuple[str, Mapping[str, Key]]]:
    """Yield the name and the keys of each field that has named tables (`cloud.providers`)."""
    for field in structs.fields(section):
        meta = inspect.type_info(field.type)
        assert isinstance(meta, inspect.Metadata)
        if isinstance(meta.type, inspect.StructType):
            yield from _tables(meta.type.cls, field.name)
        elif isinstance(meta.type, inspect.DictType):
            assert isinstance(meta.type.value_type, inspect.StructType)
            full_name = f"{name}.{field.name}"
            keys = _keys(meta.type.value_type.cls, full_name)
            yield full_name, MappingProxyType({key.name: key for key in keys})


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=least, le=greatest):
            limits = f"at least {least}" + ("" if greatest is None else f" and at most {greatest}")
            return f"a whole number, {limits}"
        case inspect.LiteralType(values=values):
            *most, last = (f'"{value}"' for value in values)
            return f"{', '.join(most)} or {last}" if most else last
        case inspect.StrType(min_length=int(_)):
            return "a string that is not empty"
        case inspect.StrType(max_length=int(length)):
            return f"a string of at most {length} characters, in one line"
        case inspect.StrType():
            return "a string"
    return "a list of strings"


#: All keys, by full name (`cloud.listen`).
KEYS: Mapping[str, Key] = {key.full_name: key for key in _keys(Config, "")}
#: The keys of each table in a dictionary, by the dictionary's full name (`cloud.providers`).
TABLES: Mapping[str, Mapping[str, Key]] = dict(_tables(Config, ""))
#: All keys, by the name of their option.
OPTIONS: Mapping[str, Key] = {key.option: key for key in KEYS.values()}
_SECTION_TYPES: Mapping[str, type] = {
    field.name: type(field.default)
    for field in structs.fields(Config)
    if isinstance(field.default, Section)
}
SECTIONS = frozenset(_SECTION_TYPES)
