"""The schema of the configuration: the type, limits, default and help of each key.

A key's description is its help on the command line. Each key is an option of the same name
(`cloud.max_proxies` is `--max-proxies`) unless its field gives another. The keys of a table in a
dictionary (`cloud.providers.NAME.issuer`) are only in the file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ctllm.config.validators import (
    check_absolute_path,
    check_algorithm,
    check_allowed_request,
    check_claim,
    check_issuer,
    check_listen_or_off,
    check_namespace,
    check_ollama_host,
    check_origin,
    check_printable_name,
    check_registry,
    check_trusted_proxy,
    check_unix_or_off,
    check_web_address,
    parse_network_pool,
    parse_uid_range,
    to_endpoint_string,
)


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of all sections.

    The `extra` of a field's `Meta` may have a `check`, which is called with each string of the
    value and raises `BadConfiguration`, and an `option`, for a key whose name another section
    has too.
    """


class Provider(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An OpenID provider whose users may sign in: a table `[cloud.providers.NAME]`."""

    issuer: Annotated[
        str,
        Meta(
            description="The issuer's URL, as the provider writes it in its tokens (iss). The "
            "provider is discovered there.",
            extra={"check": check_issuer},
        ),
    ]
    client_id: Annotated[
        str,
        Meta(
            description="The client id of desktops, which are public clients (RFC 8252); also "
            "that of the page, unless page_client_id is set.",
            min_length=1,
            extra={"check": check_printable_name},
        ),
    ]
    title: Annotated[
        str,
        Meta(
            description="The text of the button that signs in. Empty: the name of the table.",
            max_length=60,
            extra={"check": check_printable_name},
        ),
    ] = ""
    page_client_id: Annotated[
        str,
        Meta(
            description="The client id of the page, if it is another client than desktops.",
            extra={"check": check_printable_name},
        ),
    ] = ""
    page_client_secret_file: Annotated[
        str,
        Meta(
            description="The file with the client secret of the page. Empty: it has none, and "
            "PKCE alone protects its codes."
        ),
    ] = ""
    desktop_client_secret: Annotated[
        str,
        Meta(
            description="The client secret of desktops, for a provider that gives one to "
            "installed apps, such as Google. Everybody can read it, so it must not be "
            "confidential.",
            extra={"check": check_printable_name},
        ),
    ] = ""
    audience: Annotated[
        str,
        Meta(
            description="The audience (aud) that tokens must have, and that clients request. "
            "Empty: one of the client ids.",
            extra={"check": check_printable_name},
        ),
    ] = ""
    scope: Annotated[
        str,
        Meta(
            description="The scopes that clients request, separated by spaces.",
            extra={"check": check_printable_name},
        ),
    ] = "openid profile offline_access"
    token: Annotated[
        Literal["access_token", "id_token"],
        Meta(
            description="Which of the provider's tokens clients send to the cloud. id_token: for "
            "providers whose access tokens are not JWTs, such as Google."
        ),
    ] = "access_token"  # noqa: S105
    user_claim: Annotated[
        str,
        Meta(
            description="The claim that identifies a user. email: only with email_verified.",
            extra={"check": check_claim},
        ),
    ] = "sub"
    name_claim: Annotated[
        str,
        Meta(
            description="The claim with the name that is displayed. Where it is missing: "
            "preferred_username, nickname, email, else the user's identity.",
            extra={"check": check_claim},
        ),
    ] = "name"
    groups_claim: Annotated[
        str,
        Meta(
            description="The claim with the user's groups: a URL, a name, or a path of names "
            "with dots, such as realm_access.roles.",
            extra={"check": check_claim},
        ),
    ] = ""
    allowed_groups: Annotated[
        tuple[str, ...],
        Meta(description="Groups whose members may sign in. Empty: all users of the provider."),
    ] = ()
    algorithms: Annotated[
        tuple[str, ...],
        Meta(
            description="The signature algorithms that tokens may have.",
            extra={"check": check_algorithm},
        ),
    ] = ("RS256", "ES256")
    namespace: Annotated[
        str,
        Meta(
            description="Whose users they are. Empty: the issuer's. Two providers with the same "
            "namespace have the same users, by the value of user_claim.",
            extra={"check": check_namespace},
        ),
    ] = ""

    @property
    def user_issuer(self) -> str:
        """The first part of the ids of its users."""
        return self.namespace or self.issuer.removesuffix("/")


class Tier(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of the members of groups: a table `[cloud.tiers.NAME]`. 0 is no own limit."""

    groups: Annotated[
        tuple[str, ...],
        Meta(description="Groups whose members have this tier, unless an earlier one has them."),
    ] = ()
    requests_per_minute: Annotated[
        int, Meta(description="Maximum number of requests of a user in a minute.", ge=0)
    ] = 0
    max_requests: Annotated[
        int, Meta(description="Maximum number of concurrent requests of a user.", ge=0)
    ] = 0
    max_desktops: Annotated[
        int, Meta(description="Maximum number of connected desktops of a user.", ge=0)
    ] = 0
    spawner: Annotated[
        Literal["", "process", "docker", "swarm"],
        Meta(description="How streaming proxies of these users run. Empty: as cloud.spawner."),
    ] = ""


class Cloud(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the cloud and of how it runs streaming proxies."""

    listen: Annotated[
        str,
        Meta(
            description="The address that the cloud listens on: host:port or a Twisted endpoint "
            "string (tcp:, tcp6:, ssl:, unix:, systemd:).",
            extra={"check": to_endpoint_string},
        ),
    ] = "127.0.0.1:8434"
    public_url: Annotated[
        str,
        Meta(
            description="The URL at which users reach the cloud, for login links. "
            "Empty: http:// and cloud.listen.",
            extra={"check": check_web_address},
        ),
    ] = ""
    metrics_listen: Annotated[
        str,
        Meta(
            description="The address of the Prometheus metrics: host:port, a Twisted endpoint "
            'string, or "off".',
            extra={"check": check_listen_or_off},
        ),
    ] = "127.0.0.1:8435"
    auth_request_listen: Annotated[
        str,
        Meta(
            description="For nginx (auth_request), which then sends requests to streaming proxies "
            "itself: a UNIX socket that only nginx may reach, such as unix:/PATH:mode=660, or "
            '"off".',
            extra={"check": check_unix_or_off},
        ),
    ] = "off"
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of other sites whose pages may use the cloud (CORS), such as "
            "https://chat.example.org, http://localhost:* or app://*.",
            extra={"check": check_origin},
        ),
    ] = ()
    spawner: Annotated[
        Literal["process", "docker", "swarm"],
        Meta(
            description="How streaming proxies run: as child processes, as containers, or as "
            "services of a swarm."
        ),
    ] = "process"
    proxy_uids: Annotated[
        str,
        Meta(
            description="With the process spawner and a cloud that runs as root: the range of "
            'user ids from which each streaming proxy gets its own, or "off".',
            extra={"check": parse_uid_range},
        ),
    ] = "60706-61183"
    docker_url: Annotated[
        str,
        Meta(
            description="The Docker Engine, for the spawners docker and swarm: unix:///path or "
            "tcp://host:port. For swarm, it is a manager."
        ),
    ] = "unix:///var/run/docker.sock"
    docker_certs_dir: Annotated[
        str,
        Meta(
            description="The directory with ca.pem, cert.pem and key.pem, for a Docker Engine at "
            "a tcp:// URL."
        ),
    ] = ""
    docker_image: Annotated[
        str,
        Meta(
            description="The streaming proxy's image. Empty: ctllm-streaming-proxy of this version."
        ),
    ] = ""
    docker_network: Annotated[
        Literal["bridge", "none"],
        Meta(
            description="How containers are reached. bridge: over an internal network for each. "
            "none: over a UNIX socket, without any network; Docker must be on this machine."
        ),
    ] = "bridge"
    sockets_dir: Annotated[
        str,
        Meta(
            description="With docker_network none: the directory for the sockets of containers, at "
            "the same path on Docker's machine. Its group may connect to them. Empty: in the state "
            "directory, for the cloud alone.",
            extra={"check": check_absolute_path},
        ),
    ] = ""
    docker_network_pool: Annotated[
        str,
        Meta(
            description="The private IPv4 network from which each container gets a /28.",
            extra={"check": parse_network_pool},
        ),
    ] = "10.128.0.0/12"
    firewall_socket: Annotated[
        str,
        Meta(
            description="With docker_network bridge and Docker on this machine: the socket of "
            "ctllm firewall --watch, which confirms before each start that containers are isolated "
            "from this machine. Empty: they are started without that.",
            extra={"check": check_absolute_path},
        ),
    ] = "/run/ctllm-firewall/socket"
    swarm_containers: Annotated[
        tuple[str, ...],
        Meta(
            description="With the swarm spawner: the names of the containers that reach streaming "
            "proxies, those of the cloud and of its reverse proxy, on the machine of docker_url. "
            "They are attached to the network of each proxy."
        ),
    ] = ()
    swarm_constraints: Annotated[
        tuple[str, ...],
        Meta(
            description="With the swarm spawner: which nodes run streaming proxies, such as "
            "node.labels.ctllm==proxies."
        ),
    ] = ()
    swarm_encrypted: Annotated[
        bool,
        Meta(
            description="With the swarm spawner: whether the networks of streaming proxies are "
            "encrypted between nodes, by IPsec."
        ),
    ] = True
    access_token_ttl_seconds: Annotated[
        int,
        Meta(
            description="Lifetime of an access token, in seconds. Clients renew theirs before.",
            ge=60,
            le=3600,
        ),
    ] = 600
    session_ttl_days: Annotated[
        int, Meta(description="Lifetime of an unused session, in days.", ge=1, le=3650)
    ] = 30
    invite_ttl_minutes: Annotated[
        int, Meta(description="Lifetime of an invite link, in minutes.", ge=1, le=1440)
    ] = 15
    max_proxies: Annotated[
        int,
        Meta(description="Maximum number of streaming proxies, and so of active users.", ge=1),
    ] = 100
    max_concurrent_starts: Annotated[
        int, Meta(description="Maximum number of streaming proxies that start at once.", ge=1)
    ] = 2
    proxy_warm: Annotated[
        int,
        Meta(
            description="Number of streaming proxies that run without a user, so that a user's "
            "first request need not wait for a start. Each takes memory. 0: none.",
            ge=0,
            le=1000,
        ),
    ] = 0
    proxy_idle_timeout_seconds: Annotated[
        int,
        Meta(description="Stop a streaming proxy that is unused for so many seconds.", ge=1),
    ] = 600
    proxy_health_interval_seconds: Annotated[
        int,
        Meta(description="Seconds between two health checks of a streaming proxy.", ge=1),
    ] = 30
    reconcile_interval_seconds: Annotated[
        int,
        Meta(
            description="Seconds between two comparisons of the containers that run with those "
            "that should.",
            ge=1,
        ),
    ] = 60
    proxy_start_timeout_seconds: Annotated[
        int,
        Meta(description="Maximum time for a streaming proxy to start, in seconds.", ge=1),
    ] = 20
    start_queue_timeout_seconds: Annotated[
        int,
        Meta(
            description="Seconds that a request or a desktop waits at most while the streaming "
            "proxies of others are started first.",
            ge=1,
        ),
    ] = 50
    max_connections: Annotated[
        int,
        Meta(
            description="Maximum number of client connections; a quarter of them may be idle. "
            "Lower if the limit of open files is.",
            ge=16,
        ),
    ] = 16384
    max_requests_per_user: Annotated[
        int, Meta(description="Maximum number of concurrent requests of one user.", ge=1)
    ] = 4096
    max_request_head_bytes: Annotated[
        int,
        Meta(
            description="Maximum size of a request line with its headers, in bytes.",
            ge=4096,
            le=1048576,
        ),
    ] = 65536
    providers: Annotated[
        dict[str, Provider],
        Meta(description="The OpenID providers whose users may sign in, by name."),
    ] = {}
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Reverse proxies whose X-Forwarded-For tells the address of the client: "
            "networks, and unix for a UNIX socket.",
            extra={"check": check_trusted_proxy},
        ),
    ] = ("127.0.0.0/8", "::1/128", "unix")
    requests_per_minute: Annotated[
        int,
        Meta(
            description="Maximum number of requests of one user in a minute, unless their tier has "
            "one. 0: no limit.",
            ge=0,
            le=1000000,
        ),
    ] = 30000
    failed_logins_per_minute: Annotated[
        int,
        Meta(
            description="Failed attempts to sign in that one client address may make in a minute. "
            "0: no limit.",
            ge=0,
            le=1000000,
        ),
    ] = 30
    failed_requests_per_minute: Annotated[
        int,
        Meta(
            description="Requests with a token or key that is not valid that one client address "
            "may make in a minute. 0: no limit.",
            ge=0,
            le=1000000,
        ),
    ] = 600
    audit_max_bytes: Annotated[
        int,
        Meta(
            description="Size at which the audit log is rotated, in bytes. 0: never.",
            ge=0,
        ),
    ] = 16777216
    audit_retention_days: Annotated[
        int,
        Meta(
            description="Days for which rotated audit logs are kept. 0: for ever.",
            ge=0,
            le=36500,
        ),
    ] = 365
    tiers: Annotated[
        dict[str, Tier],
        Meta(description="The limits of users by their groups, by name, the first match first."),
    ] = {}


class Desktop(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the desktop, the daemon beside Ollama."""

    listen: Annotated[
        str,
        Meta(
            description="The address at which apps on this machine reach their models: host:port, "
            'a Twisted endpoint string, or "off".',
            extra={"check": check_listen_or_off, "option": "desktop-listen"},
        ),
    ] = "127.0.0.1:11435"
    ollama_host: Annotated[
        str,
        Meta(
            description="The address of Ollama, in any form that OLLAMA_HOST may have. "
            "Empty: $OLLAMA_HOST unless that is ctllm itself, else 127.0.0.1:11434.",
            extra={"check": check_ollama_host},
        ),
    ] = ""
    allowed_requests: Annotated[
        tuple[str, ...],
        Meta(
            description="The requests that may reach this machine's Ollama through the cloud. use: "
            "inference and lists. manage: changes of models, for clients with that scope. Others "
            'by method and path, such as "POST /v1/rerank". *: all.',
            extra={"check": check_allowed_request},
        ),
    ] = ("use", "manage")
    allowed_registries: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts of the registries that pull, push and create may use through the "
            "cloud.",
            extra={"check": check_registry},
        ),
    ] = ("registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co")
    remote_models: Annotated[
        Literal["allow", "refuse"],
        Meta(
            description="Whether models that this machine's Ollama forwards to ollama.com may be "
            "used through ctllm. Their names end with :cloud or -cloud."
        ),
    ] = "allow"
    routing_policy: Annotated[
        Literal["auto", "local", "cloud", "never"],
        Meta(
            description="Where requests of this machine's apps go. auto: to its Ollama; to your "
            "other desktops, through the cloud, for models that only they have or while it is "
            "down. local: there only while it is down. cloud: there first. never: never there. "
            "Change it while the desktop runs with: ctllm prefer."
        ),
    ] = "auto"
    desktop_name: Annotated[
        str,
        Meta(
            description="The name of this desktop in lists. Empty: the host name.",
            max_length=100,
            extra={"check": check_printable_name},
        ),
    ] = ""
    demo: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Whether a demo model responds while there is no Ollama. "
            "auto: only with the role all."
        ),
    ] = "auto"
    generation_grace_seconds: Annotated[
        int,
        Meta(
            description="How long a response of the page goes on without a reader, in seconds.",
            ge=1,
            le=86400,
        ),
    ] = 120
    ollama_check_interval_seconds: Annotated[
        int, Meta(description="Seconds between two health checks of Ollama.", ge=1)
    ] = 2
    ipc_port: Annotated[
        int,
        Meta(
            description="The port on 127.0.0.1 for the tray and the ctllm command. "
            "0: any free port; they find it.",
            ge=0,
            le=65535,
        ),
    ] = 0
    credential_store: Annotated[
        Literal["auto", "keyring", "encrypted-file", "file"],
        Meta(
            description="Where this desktop keeps the tokens of its login. auto: in the system's "
            "keyring if it is unlocked, else in an encrypted file if there is a key, else in a "
            "file that only its owner can read."
        ),
    ] = "auto"
    passphrase_file: Annotated[
        str,
        Meta(
            description="The file with the passphrase of the encrypted file. Empty: none, or the "
            "credential ctllm-key of the desktop's systemd unit.",
            extra={"check": check_absolute_path},
        ),
    ] = ""
    conversations: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether the chat page may store conversations on this desktop, encrypted, "
            "so that all your devices see them."
        ),
    ] = "on"
    remote_keys: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether the chat page may create and revoke API keys of this desktop "
            "through the cloud."
        ),
    ] = "on"
    page_window: Annotated[
        Literal["auto", "off"],
        Meta(
            description="Whether ctllm show opens a window of its own. auto: if the extra window "
            "is installed. off: always in the browser."
        ),
    ] = "auto"
    cloud_url: Annotated[
        str,
        Meta(
            description="The cloud's URL from this machine. Empty: that of the login link.",
            extra={"check": check_web_address},
        ),
    ] = ""


class Proxy(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of a tunnel and its streams, and of one streaming proxy's process."""

    stream_window_bytes: Annotated[
        int,
        Meta(
            description="Flow control window: bytes in flight in one direction of a stream.",
            ge=65536,
            le=67108864,
        ),
    ] = 262144
    max_streams: Annotated[
        int,
        Meta(description="Maximum number of concurrent streams in a tunnel.", ge=1, le=16384),
    ] = 4096
    reconnect_grace_seconds: Annotated[
        int,
        Meta(
            description="How long streams wait for their tunnel to reconnect, in seconds.",
            ge=0,
            le=3600,
        ),
    ] = 30
    ping_interval_seconds: Annotated[
        int, Meta(description="Seconds between two pings in a tunnel.", ge=1, le=3600)
    ] = 4
    ping_timeout_seconds: Annotated[
        int,
        Meta(
            description="Seconds of silence after the ping interval until a tunnel counts as lost.",
            ge=1,
            le=3600,
        ),
    ] = 4
    max_resume_seconds: Annotated[
        int,
        Meta(
            description="Maximum time for which a client may ask to resume its response, in "
            "seconds.",
            ge=0,
            le=86400,
        ),
    ] = 600
    resume_buffer_bytes: Annotated[
        int,
        Meta(description="Bytes at the end of a resumable response that are retained.", ge=0),
    ] = 4194304
    max_memory_bytes: Annotated[
        int,
        Meta(description="Maximum memory of a streaming proxy, in bytes.", ge=67108864),
    ] = 536870912
    max_open_files: Annotated[
        int,
        Meta(description="Maximum number of open files and sockets of a streaming proxy.", ge=64),
    ] = 8192
    log_requests: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether cloud, streaming proxies and desktop log a line for each request "
            "that passes a tunnel: id, method, route, status, outcome, duration."
        ),
    ] = "off"


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration. `load` makes `state_dir` absolute."""

    state_dir: Annotated[
        str,
        Meta(
            description="The directory for keys, sessions and sockets. Empty: $STATE_DIRECTORY, "
            "else $XDG_STATE_HOME/ctllm, else ~/.local/state/ctllm."
        ),
    ] = ""
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="The format of log lines: text, or one JSON object a line."),
    ] = "text"
    cloud: Annotated[Cloud, Meta(description="The cloud.")] = Cloud()
    desktop: Annotated[Desktop, Meta(description="The desktop.")] = Desktop()
    proxy: Annotated[Proxy, Meta(description="Tunnels and streaming proxies.")] = Proxy()

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The addresses at which apps use ctllm as if it were Ollama."""
        return self.desktop.listen, self.cloud.listen, self.cloud.public_url
