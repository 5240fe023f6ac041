"""The reference of the routes that are relayed to Ollama, from the table that authorizes them."""

from __future__ import annotations

from ctllm.ollama.endpoints import ENDPOINTS, Endpoint, Scope
from site_builder.reference.markdown import code, join, table

_TITLES = {
    Scope.USE: ("The scope use", "Every API key may send these."),
    Scope.MANAGE: (
        "The scope manage",
        "Your own sessions may send these, and keys that were made with `--scope manage`.",
    ),
    Scope.CLOSED: (
        "Closed",
        "These are refused, unless "
        "[`desktop.allowed_requests`](configuration.md#desktop-allowed-requests) lists them on the "
        "machine with Ollama.",
    ),
}


def render_ollama_api() -> str:
    """Return a table of routes for each scope."""
    return join(*(_render_scope(scope) for scope in Scope))


def _render_scope(scope: Scope) -> str:
    title, purpose = _TITLES[scope]
    rows = [
        (code(method.decode()), code(_format_path(path)), _describe(endpoint))
        for path, methods in ENDPOINTS.items()
        for method, endpoint in methods.items()
        if endpoint.scope is scope
    ]
    return join(f"## {title}", purpose, table(("Method", "Path", "Notes"), rows))


def _format_path(path: bytes) -> str:
    text = path.decode()
    return f"{text}{{parameter}}" if text.endswith("/") and text != "/" else text


def _describe(endpoint: Endpoint) -> str:
    fields = " or ".join(map(code, endpoint.model_fields))
    notes = [f"{fields} names the model" if fields else ""]
    notes.append("changes the list of models" if endpoint.changes_models else "")
    notes.append("the body can name a registry" if endpoint.names_registry else "")
    notes.append("Ollama forwards it to ollama.com" if endpoint.leaves_machine else "")
    notes.append("the body may be a form" if endpoint.accepts_form else "")
    return "; ".join(note for note in notes if note)
