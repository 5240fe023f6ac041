"""What the commands `ctllm server init` and `ctllm server check` do."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ctllm import __version__
from ctllm.cli.findings_view import print_findings, print_findings_json, summarise
from ctllm.cli.output import is_terminal, print_text, show_progress
from ctllm.config import Config
from ctllm.errors import CtllmError
from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.containers import START_TIMEOUT, StartWait
from ctllm.server.checks.findings import Finding, exit_code
from ctllm.server.checks.inside import FirewallReader, ServerMachine
from ctllm.server.checks.machine import docker_socket, find_compose
from ctllm.server.checks.outside import OutsideChecks, parse_target
from ctllm.server.deployment import load_deployment
from ctllm.server.setup_folder import (
    FolderState,
    SetupOptions,
    SetupReport,
    parse_domain,
    parse_email,
    read_folder,
    set_up_folder,
)

# -- init


def set_up_server(arguments: Namespace) -> None:
    """Write or upgrade the folder, then check the machine."""
    deployment, folder = load_deployment(), arguments.folder.absolute()
    options = SetupOptions(
        parse_domain(arguments.domain) if arguments.domain else None,
        parse_email(arguments.email) if arguments.email else None,
        arguments.adopt,
        arguments.dry_run,
        _values_of_machine(),
    )
    report = set_up_folder(folder, deployment, options)
    _print_report(folder, report, arguments.dry_run)
    nothing_runs = FirewallReader(list, list)
    machine = ServerMachine(folder, report.env, deployment, arguments.timeout, nothing_runs)
    compose = find_compose()
    print_text("\nChecks:")
    findings = print_findings(machine.checks_before_start(compose))
    print_text(f"\n{summarise(findings)}")
    if not arguments.dry_run:
        _print_next_steps(folder, compose)
    raise SystemExit(exit_code(findings))


def _values_of_machine() -> dict[str, str]:
    """Return the values of a new `.env` that depend on this machine."""
    usual, socket = docker_socket({}, {}), docker_socket({})
    values = {"CTLLM_VERSION": __version__}
    if socket.exists():
        values["DOCKER_GID"] = str(socket.stat().st_gid)
    if socket != usual:
        values["DOCKER_SOCKET"] = str(socket)
    return values


def _print_report(folder: Path, report: SetupReport, is_dry_run: bool) -> None:
    versions = [*({report.earlier_version} - {"", __version__}), __version__]
    head = f"{folder}: ctllm {' -> '.join(versions)} for {report.env.get('DOMAIN', '')}"
    print_text(f"{head} (dry run: nothing is written)" if is_dry_run else head)
    for change in report.changes:
        print_text(f"  {change.name:<13} {change.action:<10} {change.note}".rstrip())


def _print_next_steps(folder: Path, compose: Sequence[str]) -> None:
    command = " ".join(compose) or "docker compose"
    print_text(
        f"Next, in {folder}:\n  {command} up -d\n"
        f"  {command} exec api-backend ctllm invite NAME\n  ctllm server check"
    )


# -- check


def check_server(config: Config, arguments: Namespace) -> None:
    """Check a server from outside, or the one of the folder."""
    if arguments.url:
        target = parse_target(arguments.url)
        findings: Iterator[Finding] = OutsideChecks(target, arguments.timeout).run()
        name = f"https://{target.authority}"
    else:
        machine, state = _read_machine(config, arguments)
        findings = _check_machine(machine, state)
        name = f"https://{machine.target.authority}"
    if arguments.json:
        found = print_findings_json(findings, url=name, version=__version__)
    else:
        if is_terminal(sys.stdout):
            print_text(name)
        found = print_findings(findings)
        if is_terminal(sys.stdout):
            print_text(f"\n{summarise(found)}")
    raise SystemExit(exit_code(found, arguments.strict))


def _read_machine(config: Config, arguments: Namespace) -> tuple[ServerMachine, FolderState]:
    folder = arguments.folder.absolute()
    state = read_folder(folder)
    firewall = FirewallReader(partial(_missing_rules, config), _read_rules)
    wait = StartWait(START_TIMEOUT, _show_wait)
    timeout = arguments.timeout
    return ServerMachine(folder, state.env, load_deployment(), timeout, firewall, wait), state


def _show_wait(services: Sequence[str]) -> None:
    show_progress(f"Waiting for the health of {', '.join(services)} ..." if services else "")


def _check_machine(machine: ServerMachine, state: FolderState) -> Iterator[Finding]:
    yield from machine.checks_while_running(state)
    version = machine.env.get("CTLLM_VERSION") or __version__
    outside = OutsideChecks(machine.target, machine.timeout, version)
    yield from outside.run()
    if outside.addresses:
        yield OutsideChecks(machine.site, machine.timeout).check_site()


def _missing_rules(config: Config) -> list[str]:
    from ctllm.cli.firewall import missing_rules

    with _as_probe_error():
        return [" ".join(command) for command in missing_rules(config)]


def _read_rules() -> list[str]:
    from ctllm.cli.firewall import read_docker_rules

    with _as_probe_error():
        return read_docker_rules()


@contextmanager
def _as_probe_error() -> Iterator[None]:
    try:
        yield
    except CtllmError as error:
        raise ProbeError(error.message) from error
