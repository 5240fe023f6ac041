"""Checks of the containers of a server, and of the engine that runs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.engine import Container, Engine, Summary, Version
from ctllm.server.checks.findings import Finding, fault, ok, unknown, warning
from ctllm.server.checks.machine import parse_version

#: The oldest engine on which a server was run: Docker 20.10.
MIN_API = (1, 41)
#: The services of compose.yaml. The first one ends after it has started the others.
SETUP_SERVICE = "prepare"
SERVICES = ("api-backend", "nginx-proxy", "static-site", "web-app", "certbot")
#: The images of a server, without prefix and version.
IMAGES = (*SERVICES, "streaming-proxy")
_PROJECT_LABEL, _SERVICE_LABEL = "com.docker.compose.project", "com.docker.compose.service"
#: The label of the containers of streaming proxies.
_PROXY_LABEL = "ctllm.instance"
#: Restarts after which a container is suspect.
_MANY_RESTARTS = 5


def judge_engine(version: Version) -> Finding:
    """Return the finding for the version of the engine."""
    found = f"version {version.version}, API {version.api_version}"
    if parse_version(version.api_version) < MIN_API:
        return fault("Docker", f"{found}, which is too old", "Install Docker 20.10 or later.")
    return ok("Docker", found)


def check_engine(engine: Engine) -> Finding:
    """Return whether the engine answers, and is new enough."""
    try:
        return judge_engine(engine.version())
    except ProbeError as error:
        advice = "Install and start Docker, and run this command as root or a member of its group."
        return fault("Docker", str(error), advice)


def check_socket_group(socket: Path, env: Mapping[str, str]) -> Finding:
    """Return whether api-backend gets the group of the engine's socket."""
    try:
        group = str(socket.stat().st_gid)
    except OSError as error:
        return unknown("group", f"{socket}: {error.strerror}")
    if env.get("DOCKER_GID") == group:
        return ok("group", f"DOCKER_GID is that of {socket}")
    found = f"DOCKER_GID is {env.get('DOCKER_GID') or 'missing'}, the group of {socket} is {group}"
    return fault("group", found, f"Set DOCKER_GID={group} in .env, then: docker compose up -d")


def check_images(engine: Engine, prefix: str, version: str) -> Finding:
    """Return whether the images of a server are there."""
    names = [f"{prefix}{each}:{version}" for each in IMAGES]
    try:
        missing = [name for name in names if not engine.has_image(name)]
    except ProbeError as error:
        return unknown("images", str(error))
    if not missing:
        return ok("images", f"all of {version} are here")
    advice = "Build them in the source of ctllm: make site && containers/build-server"
    return fault("images", f"missing: {', '.join(missing)}", advice)


def project_name(env: Mapping[str, str], folder: Path) -> str:
    """Return the name that Docker Compose gives to the project in a folder."""
    name = env.get("COMPOSE_PROJECT_NAME") or folder.absolute().name
    return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")


@dataclass(frozen=True, slots=True)
class ContainerChecks:
    """The checks of the containers of the project in a folder.

    `missing_rules` returns the commands for the rules of the firewall that are missing; it is
    called only if a proxy has a network.
    """

    engine: Engine
    project: str
    env: Mapping[str, str]
    missing_rules: Callable[[], Sequence[str]]

    def run(self) -> Iterator[Finding]:
        """Yield the findings."""
        try:
            found = self.engine.list_containers(f"{_PROJECT_LABEL}={self.project}")
        except ProbeError as error:
            yield unknown("containers", str(error))
            return
        by_service = {each.labels.get(_SERVICE_LABEL, ""): each for each in found}
        for service in (SETUP_SERVICE, *SERVICES):
            yield self._check_service(service, by_service.get(service))
        yield self._check_proxies()

    def is_running(self) -> bool:
        """Whether nginx-proxy runs, and so has its ports."""
        try:
            found = self.engine.list_containers(f"{_PROJECT_LABEL}={self.project}")
            return any(
                each.labels.get(_SERVICE_LABEL) == "nginx-proxy"
                and self.engine.inspect(each.id).state.status == "running"
                for each in found
            )
        except ProbeError:
            return False

    def _check_service(self, service: str, summary: Summary | None) -> Finding:
        if summary is None:
            advice = "In the folder of the server: docker compose up -d"
            return fault(service, "there is no container", advice)
        try:
            container = self.engine.inspect(summary.id)
        except ProbeError as error:
            return unknown(service, str(error))
        return judge_container(service, container, self.env.get("CTLLM_VERSION", ""))

    def _check_proxies(self) -> Finding:
        """Return whether the streaming proxies are isolated from this machine."""
        try:
            proxies = self.engine.list_containers(_PROXY_LABEL)
        except ProbeError as error:
            return unknown("firewall", str(error))
        networked = [each for each in proxies if each.host_config.network_mode != "none"]
        if not networked:
            found = f"none of {len(proxies)} streaming proxies has a network: no rule is needed"
            return ok("firewall", found)
        found = f"{len(networked)} streaming proxies have a network"
        try:
            missing = self.missing_rules()
        except ProbeError as error:
            return unknown("firewall", f"{found}; {error}", "Run the command with sudo.")
        if missing:
            return fault("firewall", f"{found}; {len(missing)} rules are missing", "ctllm firewall")
        return ok("firewall", f"{found}, and the rules are complete")


def judge_container(service: str, container: Container, version: str) -> Finding:
    """Return the finding for the container of a service."""
    state, logs = container.state, f"See: docker compose logs {service}"
    if service == SETUP_SERVICE:
        if state.status == "exited" and state.exit_code == 0:
            return ok(service, "has ended, as it should")
        return fault(service, f"{state.status}, exit code {state.exit_code}", logs)
    if state.status != "running":
        return fault(service, f"{state.status}, exit code {state.exit_code}", logs)
    health = state.health.status if state.health else "without a health check"
    if health == "starting":
        return warning(service, "starting", "Wait half a minute and check again.")
    if health != "healthy":
        return fault(service, f"running, {health}", logs)
    tag = container.config.image.rpartition(":")[2]
    if version and tag != version:
        found = f"healthy, but of version {tag}, while .env has {version}"
        return warning(service, found, "docker compose up -d")
    if container.restart_count >= _MANY_RESTARTS:
        return warning(service, f"healthy, after {container.restart_count} restarts", logs)
    return ok(service, f"healthy, version {tag}")
