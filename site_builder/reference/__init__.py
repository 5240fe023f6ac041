"""The parts of the reference that are generated from the code, as Markdown.

Each of these functions returns what replaces the comment `<!-- generated: NAME -->` in a page of
docs/reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from site_builder.reference.commands import render_commands, render_roles
from site_builder.reference.configuration import render_configuration
from site_builder.reference.error_codes import render_error_codes
from site_builder.reference.management_api import render_management_api
from site_builder.reference.ollama_api import render_ollama_api

GENERATED: Mapping[str, Callable[[], str]] = {
    "commands": render_commands,
    "configuration": render_configuration,
    "errors": render_error_codes,
    "management-api": render_management_api,
    "ollama-api": render_ollama_api,
    "roles": render_roles,
}
