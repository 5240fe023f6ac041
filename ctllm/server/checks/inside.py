"""All checks on the machine of a server: before its first start, and while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.containers import (
    NO_WAIT,
    ContainerChecks,
    StartWait,
    check_engine,
    check_images,
    check_socket_group,
    project_name,
)
from ctllm.server.checks.docker_rules import ReadRules, check_docker_rules
from ctllm.server.checks.engine import Engine
from ctllm.server.checks.findings import Finding, State, ok, warning
from ctllm.server.checks.machine import (
    check_compose,
    check_disks,
    check_kernel_limits,
    check_memory,
    check_name,
    check_port,
    check_time_synchronisation,
    docker_socket,
)
from ctllm.server.checks.outside import Target
from ctllm.server.deployment import Deployment
from ctllm.server.setup_folder import FolderState, setting


@dataclass(frozen=True, slots=True)
class FirewallReader:
    """What of the firewall is needed to check a server. Both raise ProbeError.

    `missing_rules` returns the commands of `ctllm firewall` that are to be run.
    """

    missing_rules: Callable[[], Sequence[str]]
    read_rules: ReadRules


@dataclass(frozen=True, slots=True)
class ServerMachine:
    """This machine, and the folder of a server with the values of its `.env`."""

    folder: Path
    env: Mapping[str, str]
    deployment: Deployment
    timeout: float
    firewall: FirewallReader
    wait: StartWait = NO_WAIT

    def _setting(self, key: str) -> str:
        return setting(self.env, self.deployment.env_template, key)

    @property
    def engine(self) -> Engine:
        """The engine that runs the server."""
        return Engine(docker_socket(self.env), self.timeout)

    @property
    def containers(self) -> ContainerChecks:
        """The checks of the containers."""
        rules = self.firewall.missing_rules
        return ContainerChecks(self.engine, self._project, self.env, rules, self.wait)

    @property
    def _project(self) -> str:
        return project_name(self.env, self.folder)

    @property
    def target(self) -> Target:
        """The chat page and the API, as others reach them."""
        port = self._setting("HTTPS_PORT").rpartition(":")[2]
        http = self._setting("HTTP_PORT").rpartition(":")[2]
        return Target(
            f"app.{self.env.get('DOMAIN', '')}",
            int(port) if port.isdecimal() else 443,
            int(http) if http.isdecimal() else None,
        )

    @property
    def site(self) -> Target:
        """The site, as others reach it."""
        return replace(self.target, host=self.env.get("DOMAIN", ""))

    def checks_before_start(self, compose: Sequence[str]) -> Iterator[Finding]:
        """Yield what `ctllm server init` checks. `compose` is the command of Docker Compose."""
        engine = check_engine(self.engine)
        yield engine
        yield check_compose(compose)
        if engine.state is State.OK:
            yield check_socket_group(self.engine.socket, self.env)
            prefix, version = self._setting("IMAGE_PREFIX"), self.env.get("CTLLM_VERSION", "")
            yield check_images(self.engine, prefix, version)
        domain = self.env.get("DOMAIN", "")
        for name in (domain, f"app.{domain}"):
            yield check_name(name, self.timeout)
        is_ours = self.containers.is_running()
        for key in ("HTTP_PORT", "HTTPS_PORT"):
            yield check_port(key, self._setting(key), is_ours)
        yield check_memory(self._setting("MAX_USERS"))
        yield check_kernel_limits(self._setting("MAX_USERS"))
        yield from self._check_disks()

    def checks_while_running(self, state: FolderState) -> Iterator[Finding]:
        """Yield what `ctllm server check` checks on the machine of the server."""
        engine = check_engine(self.engine)
        yield engine
        if engine.state is State.OK:
            yield check_socket_group(self.engine.socket, self.env)
            yield from self.containers.run()
            yield check_docker_rules(self.engine, self._project, self.firewall.read_rules)
        yield judge_folder(state, self.deployment.version)
        yield check_memory(self._setting("MAX_USERS"))
        yield check_kernel_limits(self._setting("MAX_USERS"))
        yield from self._check_disks()
        yield check_time_synchronisation()

    def _check_disks(self) -> list[Finding]:
        paths = [self.folder, Path(self._setting("SOCKETS_DIR"))]
        try:
            root = self.engine.info().docker_root_dir
        except ProbeError:
            root = ""
        return check_disks([*paths, *([Path(root)] if root else [])])


def judge_folder(state: FolderState, version: str) -> Finding:
    """Return the finding for the files of the folder."""
    if state.waiting:
        advice = "Compare each with the file that you changed, take over what is new, remove it."
        return warning("folder", f"waiting: {', '.join(state.waiting)}", advice)
    if state.version != version:
        found = f"of ctllm {state.version or 'before `server init`'}, this is {version}"
        return warning("folder", found, "In the folder of the server: ctllm server init")
    return ok("folder", f"of ctllm {version}")
