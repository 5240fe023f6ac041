"""Checks of the containers of a server, and of the engine that runs them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.engine import Container, Engine, Version
from ctllm.server.checks.findings import Finding, fault, ok, unknown, warning
from ctllm.server.checks.machine import parse_version

#: The oldest engine on which a server was run: Docker 20.10.
MIN_API = (1, 41)
#: The services of compose.yaml. The first one ends after it has started the others.
SETUP_SERVICE = "prepare"
SERVICES = ("api-backend", "nginx-proxy", "static-site", "web-app", "certbot")
#: The images of a server, without prefix and version.
IMAGES = (*SERVICES, "streaming-proxy")
#: The label of the containers of streaming proxies.
_PROXY_LABEL = "ctllm.instance"
#: Restarts after which a container is suspect.
_MANY_RESTARTS = 5
#: Seconds until Docker has run the first health check: before version 25, after a whole interval.
START_TIMEOUT = 40.0
_POLL_INTERVAL = 0.5
#: The state of health before the first check (Docker Engine API).
_STARTING = "starting"


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
    advice = "Build them in the source of ctllm: make server"
    return fault("images", f"missing: {', '.join(missing)}", advice)


def project_name(env: Mapping[str, str], folder: Path) -> str:
    """Return the name that Docker Compose gives to the project in a folder."""
    name = env.get("COMPOSE_PROJECT_NAME") or folder.absolute().name
    return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")


@dataclass(frozen=True, slots=True)
class StartWait:
    """How long containers that start are waited for, in seconds.

    `notify` gets the services that are waited for as they become fewer, and none at the end.
    """

    timeout: float
    notify: Callable[[Sequence[str]], None]
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self, find_starting: Callable[[], Sequence[str]]) -> None:
        """Wait until `find_starting` returns nothing, or the time is over."""
        deadline, known = self.now() + self.timeout, list[str]()
        while (starting := list(find_starting())) and self.now() < deadline:
            if starting != known:
                self.notify(starting)
                known = starting
            self.sleep(_POLL_INTERVAL)
        if known:
            self.notify(())


#: Containers are judged as they are.
NO_WAIT = StartWait(0.0, lambda _: None)


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
    wait: StartWait = NO_WAIT

    def run(self) -> Iterator[Finding]:
        """Yield the findings, once no container starts any more."""
        try:
            ids = self.engine.list_project(self.project)
        except ProbeError as error:
            yield unknown("containers", str(error))
            return
        self.wait.run(lambda: [each for each in SERVICES if self._is_starting(ids.get(each))])
        for service in (SETUP_SERVICE, *SERVICES):
            yield self._check_service(service, ids.get(service))
        yield self._check_proxies()

    def is_running(self) -> bool:
        """Whether nginx-proxy runs, and so has its ports."""
        try:
            id = self.engine.list_project(self.project).get("nginx-proxy")
            return id is not None and self.engine.inspect(id).state.status == "running"
        except ProbeError:
            return False

    def _is_starting(self, id: str | None) -> bool:
        """Whether a container runs, and its first health check has not ended."""
        try:
            state = None if id is None else self.engine.inspect(id).state
        except ProbeError:
            return False
        return (
            state is not None
            and state.status == "running"
            and state.health is not None
            and state.health.status == _STARTING
        )

    def _check_service(self, service: str, id: str | None) -> Finding:
        if id is None:
            advice = "In the folder of the server: docker compose up -d"
            return fault(service, "there is no container", advice)
        try:
            container = self.engine.inspect(id)
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
    if health == _STARTING:
        return warning(service, "starting, and not healthy yet", f"Check again. {logs}")
    if health != "healthy":
        return fault(service, f"running, {health}", logs)
    tag = container.config.image.rpartition(":")[2]
    if version and tag != version:
        found = f"healthy, but of version {tag}, while .env has {version}"
        return warning(service, found, "docker compose up -d")
    if container.restart_count >= _MANY_RESTARTS:
        return warning(service, f"healthy, after {container.restart_count} restarts", logs)
    return ok(service, f"healthy, version {tag}")
