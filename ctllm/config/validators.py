"""Validation and conversion of configured values.

Each function raises `BadConfiguration` with the rest of a sentence ("must be …"); `loader` prefixes
the file and the key. Messages do not repeat the value: a URL may contain a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from urllib.parse import urlsplit

from ctllm.errors import BadConfiguration

OFF = "off"

ALGORITHMS = frozenset(
    f"{family}{bits}" for family in ("RS", "PS") for bits in ("256", "384", "512")
) | {"ES256", "ES384", "EdDSA"}
"""Signature algorithms (RFC 7518, RFC 8037) of provider tokens: asymmetric ones only."""

BUILT_IN_ISSUER = "ctllm"
"""The issuer of the users of invites, whom no provider may authenticate."""

_ENDPOINT = re.compile(r"(tcp6?|ssl|unix|systemd):(.+)", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_WEB_ADDRESS = re.compile(r"https?://([^/?#@]+)/?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#@A-Z]+)")
_ISSUER = re.compile(r"(https?)://([^/?#@]+)((?:/[!-~]*)?)")
_LOOPBACK_HOSTS = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")
_ALLOWED_REQUEST = re.compile(r"use|manage|\*|[A-Z]+ /[!-~]*")
_OLLAMA_PORTS = {"": 11434, "http": 80, "https": 443}
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
_REACHABLE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def check_absolute_path(path: str) -> None:
    """Raise BadConfiguration for a path that depends on the working directory; "" is allowed."""
    if path and not PurePath(path).is_absolute() and not path.startswith("~/"):
        raise BadConfiguration("must be an absolute path, or begin with ~/")


def check_printable_name(text: str) -> str:
    """Return `text` if it is a valid name of a desktop, which other users may see."""
    if not text.isprintable():
        raise BadConfiguration("must be one line of printable characters")
    return text


def to_endpoint_string(listen: str) -> str:
    """Return the Twisted endpoint string of `listen`: host:port, or an endpoint string already."""
    if endpoint := _ENDPOINT.fullmatch(listen):
        _check_endpoint(endpoint[1], endpoint[2])
        return listen
    host, port = _host_and_port(listen, None)
    if not host:
        raise BadConfiguration("has no host; write 0.0.0.0 for all addresses of this machine")
    kind = "tcp6" if ":" in host else "tcp"
    return f"{kind}:{port}:interface=" + host.replace(":", r"\:")


def check_listen_or_off(listen: str) -> None:
    """Accept what `to_endpoint_string` accepts, and "off"."""
    if listen != OFF:
        to_endpoint_string(listen)


def check_unix_or_off(listen: str) -> None:
    """Accept the endpoint string of a UNIX socket, and "off"."""
    if listen != OFF and not listen.startswith("unix:"):
        raise BadConfiguration(
            'must be a UNIX socket, such as unix:/run/ctllm/authorize.sock:mode=660, or "off"'
        )


def check_web_address(url: str) -> None:
    """Accept an http or https URL without user, path or query, or an empty string."""
    if not url:
        return
    if not (address := _WEB_ADDRESS.fullmatch(url)):
        raise BadConfiguration(
            "must be a URL without user, path or query, such as https://ctllm.example.org"
        )
    _check_has_host(_host_and_port(address[1], 443))


def check_issuer(url: str) -> None:
    """Accept an issuer (OpenID Connect Discovery 1.0, section 3): an https URL without a query.

    http is accepted for this machine only, because whoever changes the provider's keys on the way
    signs in as anybody.
    """
    parts = _ISSUER.fullmatch(url)
    if not parts or set("?#|") & set(parts[3]):
        raise BadConfiguration(
            "must be the issuer's URL without user, query or fragment, such as "
            "https://login.example.org/"
        )
    host, _ = _host_and_port(parts[2], 443)
    _check_has_host((host, 443))
    if parts[1] == "http" and not is_loopback_host(host):
        raise BadConfiguration("must begin with https://, unless the provider is on this machine")


def is_loopback_host(host: str) -> bool:
    """Return whether `host`, without brackets, is this machine by its own name or address."""
    return _LOOPBACK_HOSTS.fullmatch(host) is not None


def check_claim(name: str) -> None:
    """Accept the name of a claim, or a path of names with dots, or an empty string."""
    if not name.isprintable() or " " in name or name != name.strip("."):
        raise BadConfiguration(
            "must be the name of a claim, such as groups, realm_access.roles or "
            "https://example.org/groups"
        )


def check_algorithm(name: str) -> None:
    """Accept an asymmetric signature algorithm."""
    if name not in ALGORITHMS:
        raise BadConfiguration(f"must be of {', '.join(sorted(ALGORITHMS))}")


def check_namespace(name: str) -> None:
    """Accept the first part of a user's id, other than that of the users of invites."""
    if name == BUILT_IN_ISSUER or "|" in name or not name.isprintable():
        raise BadConfiguration(f'must be in one line, without "|", and not "{BUILT_IN_ISSUER}"')


def check_origin(origin: str) -> None:
    """Accept an origin (RFC 6454) in lower case. A port `:*` matches any port.

    `//*` matches all origins of a scheme, other than http and https.
    """
    if not (parts := _ORIGIN.fullmatch(origin)):
        raise BadConfiguration(
            "must be origins as browsers send them, in lower case and without a trailing slash,"
            " such as https://chat.example.org"
        )
    scheme, host = origin.partition(":")[0], parts[1]
    if host == "*" and scheme not in ("http", "https"):
        return
    _check_has_host(_host_and_port(host.removesuffix(":*"), 443))


def check_allowed_request(entry: str) -> None:
    """Accept a scope, a method with a path, or an asterisk."""
    if not _ALLOWED_REQUEST.fullmatch(entry):
        raise BadConfiguration(
            'must be use, manage, a method and a path such as "POST /v1/rerank", or *'
        )


def check_trusted_proxy(entry: str) -> None:
    """Accept a network in CIDR or an address of reverse proxies, or "unix"."""
    if entry == "unix":
        return
    try:
        ipaddress.ip_network(entry)
    except ValueError:
        raise BadConfiguration(
            'must be networks such as 10.0.0.0/8 or 2001:db8::/32, without host bits, or "unix"'
        ) from None


def check_registry(host: str) -> None:
    """Accept the host of a registry, with or without a port."""
    if host != host.lower() or "/" in host or "@" in host:
        raise BadConfiguration("must be hosts in lower case, such as registry.example.org:5000")
    _check_has_host(_host_and_port(host, 443))


def check_ollama_host(value: str) -> None:
    """Accept what `resolve_ollama_url` accepts."""
    resolve_ollama_url(value, {})


def parse_network_pool(text: str) -> ipaddress.IPv4Network:
    """Return a private network (RFC 1918) that has room for several /28 networks."""
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError:
        raise BadConfiguration(
            "must be an IPv4 network such as 10.128.0.0/12, without host bits"
        ) from None
    if not any(found.subnet_of(ipaddress.IPv4Network(private)) for private in _PRIVATE):
        raise BadConfiguration("must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
    if found.prefixlen > 27:
        raise BadConfiguration("must be larger than /28, the size of each proxy's subnet")
    return found


def parse_uid_range(text: str) -> range:
    """Return the user ids of a range such as "60706-61183"; an empty range for "off"."""
    if text == OFF:
        return range(0)
    parts = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    first, last = (int(parts[1]), int(parts[2])) if parts else (0, 0)
    if not 0 < first <= last < 2**32 - 1:
        raise BadConfiguration('must be a range of user ids such as 60706-61183, or "off"')
    return range(first, last + 1)


def resolve_public_url(url: str, listen: str) -> str:
    """Return the URL for links, without a trailing slash: `url`, else the one of `listen`.

    An endpoint string has no URL. Raises BadConfiguration if `url` is empty then.
    """
    if url:
        return url.rstrip("/")
    if _ENDPOINT.fullmatch(listen):
        raise BadConfiguration(
            "cloud.public_url: must be set when cloud.listen is an endpoint string"
        )
    host, port = _host_and_port(listen, None)
    return f"http://{_in_url(host)}:{port}"


def resolve_ollama_url(value: str, environ: Mapping[str, str], own: Sequence[str] = ()) -> str:
    """Return Ollama's URL, without a trailing slash, from `value`, else from `$OLLAMA_HOST`.

    Accepts the forms that Ollama accepts: host, host:port, :port, http(s)://host:port/path, quoted
    or not. Replaces the wildcard addresses 0.0.0.0 and :: by loopback addresses.

    `own` are addresses of ctllm itself, host:port or URLs, to which requests for Ollama would come
    back. Raises BadConfiguration where `value` is one of them. `$OLLAMA_HOST` is one where apps
    shall use ctllm; then Ollama is at its default address.
    """
    if text := _unquoted(value):
        url = _ollama_url(text)
        if _is_own(url, own):
            raise BadConfiguration("desktop.ollama_host: is the address of ctllm itself")
        return url
    try:
        url = _ollama_url(_unquoted(environ.get("OLLAMA_HOST", "")))
    except BadConfiguration as error:
        raise BadConfiguration(f"$OLLAMA_HOST: {error.message}") from error
    return _ollama_url("") if _is_own(url, own) else url


def _is_own(url: str, own: Sequence[str]) -> bool:
    """Return whether `url` has host and port of an address in `own`."""
    return _server_of(url) in [_server_of(address) for address in own if address]


def _server_of(address: str) -> tuple[str, int] | None:
    """Return host and port of host:port or a URL, or None for anything else."""
    try:
        parts = urlsplit(_ollama_url(address))
    except BadConfiguration:
        return None  # "off", or an endpoint string
    host = parts.hostname or ""
    return "localhost" if _LOOPBACK_HOSTS.fullmatch(host) else host, parts.port or 0


def _ollama_url(text: str) -> str:
    scheme, _, rest = text.rpartition("://")
    authority, _, path = rest.partition("/")
    if scheme not in _OLLAMA_PORTS or not re.fullmatch(r"[\w./~%-]*", path, re.ASCII):
        raise BadConfiguration("must be host, host:port or a URL such as http://127.0.0.1:11434")
    host, port = _host_and_port(authority, _OLLAMA_PORTS[scheme])
    return f"{scheme or 'http'}://{_in_url(host)}:{port}/{path}".rstrip("/")


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'").strip()


def _in_url(host: str) -> str:
    reachable = _REACHABLE.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


def _host_and_port(text: str, default_port: int | None) -> tuple[str, int]:
    """Split host:port, [ipv6]:port or a bare IPv6 address. The host may be empty."""
    if _is_ip(text):
        text = f"[{text}]" if ":" in text else text
    parts = _AUTHORITY.fullmatch(text)
    if not parts or not (parts[2] or default_port is not None):
        raise BadConfiguration("must be host:port, such as 127.0.0.1:8434 or [::1]:8434")
    host = parts[1].strip("[]")
    if not (_is_ip(host) if parts[1] != host else _is_host(host)):
        raise BadConfiguration("has an invalid host")
    return host, _port(parts[2]) if parts[2] else default_port or 0


def _check_has_host(address: tuple[str, int]) -> None:
    if not address[0]:
        raise BadConfiguration("has no host")


def _is_host(host: str) -> bool:
    return not host or _is_ip(host) or _HOST_NAME.fullmatch(host) is not None


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone id is not valid in a URL


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise BadConfiguration("has an invalid port; it must be a number from 0 to 65535")
    return int(text)


def _check_endpoint(kind: str, arguments: str) -> None:
    if kind not in ("tcp", "tcp6", "ssl"):
        return
    first, *rest = re.split(r"(?<!\\):", arguments)
    named = dict(part.partition("=")[::2] for part in (first, *rest) if "=" in part)
    _port(named.get("port", "") if "=" in first else first)
