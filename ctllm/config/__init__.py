"""etc/ctllm.toml and options -> frozen typed configuration, with errors that name the key."""

from ctllm.config.fields import KEYS, OPTIONS, Key, arguments
from ctllm.config.loader import load
from ctllm.config.schema import Cloud, Config, Desktop, Proxy
from ctllm.config.validators import endpoint_string, network_pool, ollama_url, public_url, uid_range

__all__ = [
    "KEYS",
    "OPTIONS",
    "Cloud",
    "Config",
    "Desktop",
    "Key",
    "Proxy",
    "arguments",
    "endpoint_string",
    "load",
    "network_pool",
    "ollama_url",
    "public_url",
    "uid_range",
]
