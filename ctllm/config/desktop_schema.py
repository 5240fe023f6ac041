"""The keys of a desktop; see `sections`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ctllm.config.section import Section
from ctllm.config.validators import (
    check_allow,
    check_listen_or_off,
    check_ollama,
    check_registry,
    check_web_address,
    printable_name,
)


class Desktop(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys of the desktop: the machine with Ollama."""

    endpoint: Annotated[
        str,
        Meta(
            description="Where apps on this machine find their models: host:port, an endpoint "
            'string of Twisted, or "off".',
            extra={"check": check_listen_or_off},
        ),
    ] = "127.0.0.1:11435"
    ollama: Annotated[
        str,
        Meta(
            description="Where Ollama is, in any form that OLLAMA_HOST may have. "
            "Empty: $OLLAMA_HOST, else 127.0.0.1:11434.",
            extra={"check": check_ollama},
        ),
    ] = ""
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="What may be asked of this machine's Ollama through the cloud. use: "
            "inference and lists. manage: what changes models, for callers with that scope. "
            'More by method and path, such as "POST /v1/rerank". *: everything.',
            extra={"check": check_allow},
        ),
    ] = ("use", "manage")
    registries: Annotated[
        tuple[str, ...],
        Meta(
            description="The registries that pull, push and create may name through the cloud, "
            "by host.",
            extra={"check": check_registry},
        ),
    ] = ("registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co")
    remote_models: Annotated[
        Literal["allow", "refuse"],
        Meta(
            description="Whether models may be used that this machine's Ollama passes on to "
            "ollama.com (their names end with :cloud or -cloud). refuse: nothing that is asked "
            "through ctllm leaves the machine that way."
        ),
    ] = "allow"
    prefer: Annotated[
        Literal["auto", "local", "cloud", "never"],
        Meta(
            description="Where requests of this machine's apps go. auto: to its Ollama, and to "
            "your other desktops (through the cloud) for models that only they have, or while "
            "it fails. local: there only while it fails. cloud: there first. never: never there. "
            "Changed later with: ctllm prefer."
        ),
    ] = "auto"
    desktop_name: Annotated[
        str,
        Meta(
            description="The name by which people see this desktop. Empty: its host name.",
            max_length=100,
            extra={"check": printable_name},
        ),
    ] = ""
    demo: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Whether a small stand-in answers where there is no Ollama. "
            "auto: only when everything runs in one program."
        ),
    ] = "auto"
    ollama_check_seconds: Annotated[
        int, Meta(description="How often to look whether Ollama is up, in seconds.", ge=1)
    ] = 2
    ipc_port: Annotated[
        int,
        Meta(
            description="The port on 127.0.0.1 where the tray and the commands of ctllm ask the "
            "desktop. 0: any free one; they find it.",
            ge=0,
            le=65535,
        ),
    ] = 0
    page_window: Annotated[
        Literal["auto", "off"],
        Meta(
            description="Whether the page gets a window of its own. auto: where the extra window "
            "is installed; else, and with off, it opens in the browser."
        ),
    ] = "auto"
    cloud_url: Annotated[
        str,
        Meta(
            description="The cloud's address from here, if it is not the one of the sign-in link.",
            extra={"check": check_web_address},
        ),
    ] = ""
