"""Renamed keys and options. An old name is refused with a message that has the new one."""

from __future__ import annotations

from collections.abc import Mapping

from ctllm.config.fields import KEYS

#: Old full names to new ones.
RENAMED_KEYS: Mapping[str, str] = {
    "state": "state_dir",
    "cloud.url": "cloud.public_url",
    "cloud.metrics": "cloud.metrics_listen",
    "cloud.origins": "cloud.cors_origins",
    "cloud.runtime": "cloud.spawner",
    "cloud.engine": "cloud.docker_url",
    "cloud.engine_certs": "cloud.docker_certs_dir",
    "cloud.image": "cloud.docker_image",
    "cloud.network": "cloud.docker_network",
    "cloud.network_pool": "cloud.docker_network_pool",
    "cloud.token_seconds": "cloud.access_token_ttl_seconds",
    "cloud.session_days": "cloud.session_ttl_days",
    "cloud.invite_minutes": "cloud.invite_ttl_minutes",
    "cloud.max_starting": "cloud.max_concurrent_starts",
    "cloud.proxy_idle_seconds": "cloud.proxy_idle_timeout_seconds",
    "cloud.proxy_health_seconds": "cloud.proxy_health_interval_seconds",
    "cloud.reconcile_seconds": "cloud.reconcile_interval_seconds",
    "cloud.proxy_start_seconds": "cloud.proxy_start_timeout_seconds",
    "cloud.max_user_requests": "cloud.max_requests_per_user",
    "cloud.max_request_head": "cloud.max_request_head_bytes",
    "desktop.endpoint": "desktop.listen",
    "desktop.ollama": "desktop.ollama_host",
    "desktop.allow": "desktop.allowed_requests",
    "desktop.registries": "desktop.allowed_registries",
    "desktop.prefer": "desktop.routing_policy",
    "desktop.ollama_check_seconds": "desktop.ollama_check_interval_seconds",
    "proxy.window": "proxy.stream_window_bytes",
    "proxy.max_exchanges": "proxy.max_streams",
    "proxy.grace_seconds": "proxy.reconnect_grace_seconds",
    "proxy.ping_seconds": "proxy.ping_interval_seconds",
    "proxy.resume_seconds_max": "proxy.max_resume_seconds",
    "proxy.keep": "proxy.resume_buffer_bytes",
    "proxy.memory_bytes": "proxy.max_memory_bytes",
}
#: Old options to new ones, without their leading dashes.
RENAMED_OPTIONS: Mapping[str, str] = {
    old.rpartition(".")[2].replace("_", "-"): KEYS[new].option for old, new in RENAMED_KEYS.items()
}
_BY_BARE_NAME = {old.rpartition(".")[2]: old for old in RENAMED_KEYS}


def renamed_key(name: str) -> str:
    """Return a sentence with the new name of the key `name`, whatever its section; else ""."""
    old = _BY_BARE_NAME.get(name)
    return f"{old} is now {RENAMED_KEYS[old]}" if old else ""


def renamed_option(option: str) -> str:
    """Return a sentence with the new name of an option (without its dashes); else ""."""
    new = RENAMED_OPTIONS.get(option)
    return f"--{option} is now --{new}" if new else ""
