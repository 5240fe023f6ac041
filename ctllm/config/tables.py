"""Reads the dictionaries of tables: `[cloud.providers.NAME]` and `[cloud.tiers.NAME]`.

They are in the file only: nothing in them is an option of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ctllm.config.fields import TABLES, suggest
from ctllm.errors import BadConfiguration

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_REQUIRED = {"cloud.providers": ("issuer", "client_id"), "cloud.tiers": ("groups",)}

Table = dict[str, Any]


class BadTable(BadConfiguration):
    """A table is wrong: `section` is its full name, and `key` is empty if no key is to blame."""

    def __init__(self, section: str, key: str, message: str) -> None:
        super().__init__(message)
        self.section = section
        self.key = key


def read_tables(full_name: str, given: object) -> dict[str, Table]:
    """Return the converted tables of the dictionary `full_name`, by name, in the file's order.

    Raises BadTable.
    """
    if not isinstance(given, dict):
        raise BadTable(full_name, "", "must be a section with tables of its own")
    tables = {name: _read_table(full_name, name, table) for name, table in given.items()}
    if full_name == "cloud.providers":
        _check_issuers(full_name, tables)
    return tables


def _read_table(full_name: str, name: str, given: object) -> Table:
    section = f"{full_name}.{name}"
    if not _NAME.fullmatch(name):
        allowed = "must have a name of at most 32 characters: a-z first, then a-z, 0-9 and -"
        raise BadTable(section, "", allowed)
    if not isinstance(given, dict):
        raise BadTable(section, "", "must be a table with keys of its own")
    table = {key: _convert(full_name, section, key, value) for key, value in given.items()}
    for key in _REQUIRED[full_name]:
        if not table.get(key):
            raise BadTable(section, key if key in table else "", f"{key} must be set")
    for key, (is_wrong, message) in _RULES.get(full_name, {}).items():
        if key in table and is_wrong(table):
            raise BadTable(section, key, message)
    return table


def _convert(full_name: str, section: str, name: str, given: object) -> Any:
    key = TABLES[full_name].get(name)
    if key is None:
        raise BadTable(section, name, "no such key" + suggest(name, TABLES[full_name], '"{}"'))
    try:
        return key.convert(given)
    except BadConfiguration as error:
        raise BadTable(section, name, error.message) from error


#: By key: whether a table with it is wrong, beside the type of its value, and a sentence.
_RULES: Mapping[str, Mapping[str, tuple[Callable[[Table], bool], str]]] = {
    "cloud.providers": {
        "allowed_groups": (
            lambda table: bool(table["allowed_groups"]) and not table.get("groups_claim"),
            "needs groups_claim, the claim with a user's groups",
        ),
        "algorithms": (
            lambda table: not table["algorithms"],
            "must have at least one algorithm",
        ),
        "user_claim": (lambda table: not table["user_claim"], "must be the name of a claim"),
        "name_claim": (lambda table: not table["name_claim"], "must be the name of a claim"),
    }
}


def _check_issuers(full_name: str, tables: Mapping[str, Table]) -> None:
    """Refuse two providers with one issuer, even with different audiences.

    A token chooses its provider by its issuer, before anything in it is verified.
    """
    seen: dict[str, str] = {}
    for name, table in tables.items():
        issuer = table["issuer"].removesuffix("/")
        if issuer in seen:
            other = f"{full_name}.{seen[issuer]}"
            raise BadTable(f"{full_name}.{name}", "issuer", f"{other} has the same issuer")
        seen[issuer] = name
