"""etc/ctllm.toml and options -> frozen typed configuration, with errors that name the key."""

from ctllm.config.addresses import endpoint_string, network_pool, ollama_url, public_url, uid_range
from ctllm.config.desktop import Desktop
from ctllm.config.keys import KEYS, Key, arguments
from ctllm.config.reading import load
from ctllm.config.sections import Cloud, Config, Proxy

__all__ = [
    "KEYS",
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
