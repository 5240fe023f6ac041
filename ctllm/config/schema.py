"""Every key of the configuration: its type, its limits, its default and what it is for.

The descriptions here are the help of the command line. Each name is unique over all sections,
because each is an option too (`token_seconds` is `--token-seconds`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ctllm.config.desktop_schema import Desktop
from ctllm.config.section import Section
from ctllm.config.validators import (
    check_listen_or_off,
    check_origin,
    check_web_address,
    endpoint_string,
    network_pool,
    uid_range,
)


class Cloud(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys of the cloud's front door and of the streaming proxies that it starts."""

    listen: Annotated[
        str,
        Meta(
            description="Where the cloud listens: host:port, or an endpoint string of Twisted "
            "(tcp:, tcp6:, ssl:, unix:, systemd:).",
            extra={"check": endpoint_string},
        ),
    ] = "127.0.0.1:8434"
    url: Annotated[
        str,
        Meta(
            description="The address by which people reach the cloud, for links. "
            "Empty: follows from listen.",
            extra={"check": check_web_address},
        ),
    ] = ""
    metrics: Annotated[
        str,
        Meta(
            description='Where Prometheus reads the metrics: like listen, or "off".',
            extra={"check": check_listen_or_off},
        ),
    ] = "127.0.0.1:8435"
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of other sites whose pages may use the cloud in a browser "
            "(CORS), such as https://chat.example.org, http://localhost:* or app://*.",
            extra={"check": check_origin},
        ),
    ] = ()
    runtime: Annotated[
        Literal["process", "docker"],
        Meta(description="What runs the streaming proxies."),
    ] = "process"
    proxy_uids: Annotated[
        str,
        Meta(
            description="Where runtime is process and the cloud is root: the users, as a range of "
            'numbers, out of which each streaming proxy has one of its own; or "off".',
            extra={"check": uid_range},
        ),
    ] = "60706-61183"
    engine: Annotated[
        str,
        Meta(
            description="The Docker engine that runs the streaming proxies, where runtime is "
            "docker: unix:///path or tcp://host:port."
        ),
    ] = "unix:///var/run/docker.sock"
    engine_certs: Annotated[
        str,
        Meta(
            description="The folder with ca.pem, cert.pem and key.pem for an engine that is "
            "reached by tcp://."
        ),
    ] = ""
    image: Annotated[
        str,
        Meta(
            description="The image of the streaming proxy. Empty: ctllm-streaming-proxy of this "
            "version."
        ),
    ] = ""
    network: Annotated[
        Literal["bridge", "none"],
        Meta(
            description="How containers are reached. bridge: each by an internal network of its "
            "own. none: by a UNIX socket, without any network, for very many users; the engine "
            "must be on this machine."
        ),
    ] = "bridge"
    network_pool: Annotated[
        str,
        Meta(
            description="The private IPv4 network out of which each streaming proxy's container "
            "has a /28 of its own.",
            extra={"check": network_pool},
        ),
    ] = "10.128.0.0/12"
    token_seconds: Annotated[
        int,
        Meta(
            description="How long an access token is valid, in seconds; it is renewed before that.",
            ge=60,
            le=3600,
        ),
    ] = 600
    session_days: Annotated[
        int, Meta(description="How long a sign-in lasts, in days.", ge=1, le=3650)
    ] = 30
    invite_minutes: Annotated[
        int,
        Meta(description="How long a sign-in link may be used, in minutes.", ge=1, le=1440),
    ] = 15
    max_proxies: Annotated[
        int,
        Meta(description="How many streaming proxies (users) there may be at once.", ge=1),
    ] = 100
    max_starting: Annotated[
        int, Meta(description="How many streaming proxies may start at once.", ge=1)
    ] = 2
    proxy_idle_seconds: Annotated[
        int,
        Meta(description="When an unused streaming proxy is removed, in seconds.", ge=1),
    ] = 600
    proxy_health_seconds: Annotated[
        int,
        Meta(description="How often a streaming proxy's health is asked, in seconds.", ge=1),
    ] = 30
    reconcile_seconds: Annotated[
        int,
        Meta(
            description="How often what runs is compared with what should, in seconds, where "
            "streaming proxies outlive the cloud.",
            ge=1,
        ),
    ] = 60
    proxy_start_seconds: Annotated[
        int,
        Meta(description="How long a streaming proxy's start may take, in seconds.", ge=1),
    ] = 20
    max_connections: Annotated[
        int,
        Meta(
            description="How many connections the cloud serves at once, if it may have as many "
            "files; a quarter of them may wait without a request.",
            ge=16,
        ),
    ] = 16384
    max_user_requests: Annotated[
        int, Meta(description="How many requests of one user may be under way at once.", ge=1)
    ] = 4096
    max_request_head: Annotated[
        int,
        Meta(
            description="The largest request line and headers together, in bytes.",
            ge=4096,
            le=1048576,
        ),
    ] = 65536


class Proxy(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of a tunnel and its exchanges, and of one streaming proxy's process."""

    window: Annotated[
        int,
        Meta(
            description="How many bytes of one direction of an exchange may be under way.",
            ge=65536,
            le=67108864,
        ),
    ] = 262144
    max_exchanges: Annotated[
        int,
        Meta(description="How many exchanges one tunnel carries at once.", ge=1, le=16384),
    ] = 4096
    grace_seconds: Annotated[
        int,
        Meta(description="How long an exchange outlives its tunnel, in seconds.", ge=0, le=3600),
    ] = 30
    ping_seconds: Annotated[
        int, Meta(description="How often a tunnel is pinged, in seconds.", ge=1, le=3600)
    ] = 4
    ping_timeout_seconds: Annotated[
        int,
        Meta(
            description="How long a tunnel may be silent beyond that before it counts as lost, "
            "in seconds.",
            ge=1,
            le=3600,
        ),
    ] = 4
    resume_seconds_max: Annotated[
        int,
        Meta(
            description="How long at most a client may stay away and still take up its answer, "
            "in seconds.",
            ge=0,
            le=86400,
        ),
    ] = 600
    keep: Annotated[
        int,
        Meta(
            description="How many bytes of a resumable answer's end are kept for its client.",
            ge=0,
        ),
    ] = 4194304
    memory_bytes: Annotated[
        int,
        Meta(description="The most memory that a streaming proxy may take.", ge=67108864),
    ] = 536870912
    max_open_files: Annotated[
        int,
        Meta(description="The most files and sockets that a streaming proxy may open.", ge=64),
    ] = 8192


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration. What `load` gives names its `state` folder absolutely."""

    state: Annotated[
        str,
        Meta(
            description="The folder for keys, sign-ins and sockets. Empty: $STATE_DIRECTORY, else "
            "$XDG_STATE_HOME/ctllm, else ~/.local/state/ctllm."
        ),
    ] = ""
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="How log lines look: for people, or one JSON object a line."),
    ] = "text"
    cloud: Annotated[Cloud, Meta(description="The cloud.")] = Cloud()
    desktop: Annotated[Desktop, Meta(description="The desktop.")] = Desktop()
    proxy: Annotated[Proxy, Meta(description="Tunnels and streaming proxies.")] = Proxy()
