"""The keys of the schema as values: their names, help and conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct, inspect, structs

from ctllm.config.schema import Config, Section
from ctllm.errors import BadConfiguration


class Key(Struct, frozen=True, kw_only=True):
    """A key of the configuration.

    `section` is empty at the top level. `kind` is the type without its limits. `option` is the
    name on the command line, without the leading dashes.
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
    """Return the options that hand `section` to another process."""
    name = next(each for each, kind in _SECTION_TYPES.items() if kind is type(section))
    return [
        f"--{KEYS[f'{name}.{key}'].option}={','.join(value) if isinstance(value, tuple) else value}"
        for key, value in structs.asdict(section).items()
    ]


def _keys(section: type[Struct], name: str) -> Iterator[Key]:
    for field in structs.fields(section):
        meta = inspect.type_info(field.type)
        assert isinstance(meta, inspect.Metadata)
        if isinstance(meta.type, inspect.StructType):
            yield from _keys(meta.type.cls, field.name)
        else:
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


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=least, le=greatest):
            limits = f"at least {least}" + ("" if greatest is None else f" and at most {greatest}")
            return f"a whole number, {limits}"
        case inspect.LiteralType(values=values):
            *most, last = (f'"{value}"' for value in values)
            return f"{', '.join(most)} or {last}" if most else last
        case inspect.StrType(max_length=int(length)):
            return f"a string of at most {length} characters, in one line"
        case inspect.StrType():
            return "a string"
    return "a list of strings"


#: All keys, by full name (`cloud.listen`).
KEYS: Mapping[str, Key] = {key.full_name: key for key in _keys(Config, "")}
#: All keys, by the name of their option.
OPTIONS: Mapping[str, Key] = {key.option: key for key in KEYS.values()}
_SECTION_TYPES: Mapping[str, type] = {
    field.name: type(field.default)
    for field in structs.fields(Config)
    if isinstance(field.default, Section)
}
SECTIONS = frozenset(_SECTION_TYPES)
