"""The configuration: its schema, and how it is loaded from a file and options."""

from ctllm.config.fields import KEYS, OPTIONS, TABLES, Key, to_options
from ctllm.config.loader import find_file, load
from ctllm.config.schema import Cloud, Config, Desktop, Provider, Proxy, Tier
from ctllm.config.validators import (
    is_loopback_host,
    parse_network_pool,
    parse_uid_range,
    resolve_ollama_url,
    resolve_public_url,
    to_endpoint_string,
)

__all__ = [
    "KEYS",
    "OPTIONS",
    "TABLES",
    "Cloud",
    "Config",
    "Desktop",
    "Key",
    "Provider",
    "Proxy",
    "Tier",
    "find_file",
    "is_loopback_host",
    "load",
    "parse_network_pool",
    "parse_uid_range",
    "resolve_ollama_url",
    "resolve_public_url",
    "to_endpoint_string",
    "to_options",
]
