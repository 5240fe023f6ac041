"""The configuration: its schema, and how it is loaded from a file and options."""

from ctllm.config.fields import KEYS, OPTIONS, Key, to_options
from ctllm.config.loader import load
from ctllm.config.schema import Cloud, Config, Desktop, Proxy
from ctllm.config.validators import (
    parse_network_pool,
    parse_uid_range,
    resolve_ollama_url,
    resolve_public_url,
    to_endpoint_string,
)

__all__ = [
    "KEYS",
    "OPTIONS",
    "Cloud",
    "Config",
    "Desktop",
    "Key",
    "Proxy",
    "load",
    "parse_network_pool",
    "parse_uid_range",
    "resolve_ollama_url",
    "resolve_public_url",
    "to_endpoint_string",
    "to_options",
]
