"""The checks of the machine of a server, with a fake engine on a UNIX socket."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm import __version__
from ctllm.cli.findings_view import summarise
from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.containers import (
    IMAGES,
    NO_WAIT,
    SERVICES,
    SETUP_SERVICE,
    ContainerChecks,
    StartWait,
    check_engine,
    check_images,
    check_socket_group,
    project_name,
)
from ctllm.server.checks.docker_rules import check_docker_rules
from ctllm.server.checks.engine import Engine
from ctllm.server.checks.findings import Finding, State, exit_code, fault, ok, unknown, warning
from ctllm.server.checks.inside import FirewallReader, ServerMachine, judge_folder
from ctllm.server.checks.machine import (
    GB,
    PublishedPort,
    check_disks,
    check_kernel_limits,
    check_memory,
    check_port,
    check_time_synchronisation,
    docker_socket,
    find_compose,
    is_local_address,
    judge_addresses,
    judge_disk,
    judge_memory,
    parse_version,
)
from ctllm.server.deployment import load_deployment
from ctllm.server.setup_folder import FolderState
from ctllm.system.kernel_limits import LowLimit
from tests.unit.server.hostile_server import Answer, read_head, respond, run_unix_server

ENV = {"CTLLM_VERSION": "1.0", "COMPOSE_PROJECT_NAME": "shop"}


class FakeEngine:
    """An engine whose containers all are as they should be, until a test changes some."""

    def __init__(self) -> None:
        self.version: Any = {"Version": "20.10.24", "ApiVersion": "1.41", "Os": "linux"}
        self.containers: dict[str, dict[str, Any]] = {
            service: self.container("running", "healthy") for service in SERVICES
        }
        self.containers[SETUP_SERVICE] = self.container("exited")
        self.proxies: list[dict[str, Any]] = []
        self.images = {f"ctllm-{each}:1.0" for each in IMAGES}
        self.info: dict[str, Any] = {"DockerRootDir": "/var/lib/docker", "Containers": 1}

    def container(
        self, status: str, health: str = "", code: int = 0, restarts: int = 0, version: str = "1.0"
    ) -> dict[str, Any]:
        state: dict[str, Any] = {"Status": status, "ExitCode": code}
        if health:
            state["Health"] = {"Status": health, "Log": []}
        image = {"Image": f"ctllm-x:{version}"}
        return {"State": state, "Config": image, "RestartCount": restarts, "Name": "/x"}

    def __call__(self, connection: socket.socket, ended: threading.Event) -> None:
        target = urlsplit(read_head(connection).decode())
        value = self.answer(unquote(target.path), parse_qs(target.query))
        if value is None:
            respond(connection, b'{"message": "no such thing"}', "404 Not Found")
        else:
            respond(connection, json.dumps(value).encode())

    def answer(self, path: str, query: Mapping[str, Sequence[str]]) -> Any:
        if path == "/version":
            return self.version
        if path == "/info":
            return self.info
        if path == "/containers/json":
            return self.list(json.loads(query["filters"][0])["label"][0])
        if path.startswith("/images/"):
            name = path.removeprefix("/images/").removesuffix("/json")
            return {"Id": "x"} if name in self.images else None
        return self.containers.get(path.split("/")[2])

    def list(self, label: str) -> list[dict[str, Any]]:
        if label == "ctllm.instance":
            return self.proxies
        assert label == "com.docker.compose.project=shop", label
        return [
            {"Id": service, "Names": [f"/{service}"], "Labels": {
                "com.docker.compose.service": service}, "HostConfig": {"NetworkMode": "x"}}
            for service in self.containers
        ]  # fmt: skip


class EngineCase(SynchronousTestCase):
    """A folder for sockets, whose paths must be short."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="ctllm-")))
        self.fake = FakeEngine()
        self.missing_rules: list[str] = []
        self.wait = NO_WAIT

    @contextmanager
    def engine(self, answer: Answer | None = None, timeout: float = 20.0) -> Iterator[Engine]:
        with run_unix_server(self.folder / "docker.sock", answer or self.fake) as path:
            yield Engine(path, timeout)
        (self.folder / "docker.sock").unlink()

    def check(self) -> dict[str, Finding]:
        """Return the findings of the containers, by what was checked."""
        with self.engine() as engine:
            checks = ContainerChecks(engine, "shop", ENV, lambda: self.missing_rules, self.wait)
            return {each.check: each for each in checks.run()}

    def assert_found(self, check: str, state: State, text: str) -> None:
        finding = self.check()[check]
        self.assertEqual(finding.state, state, finding)
        self.assertIn(text, finding.found)


class EngineTests(EngineCase):
    """Engines that are absent, too old, or something else."""

    def test_a_recent_engine_is_fine(self) -> None:
        with self.engine() as engine:
            self.assertEqual(check_engine(engine).state, State.OK)

    def test_an_old_engine_is_a_fault(self) -> None:
        for version in ("1.24", "1.40", "", "x"):
            self.fake.version = {"Version": "1.12", "ApiVersion": version}
            with self.engine() as engine:
                found = check_engine(engine)
            self.assertEqual((found.state, "too old" in found.found), (State.FAULT, True), version)

    def test_without_an_engine(self) -> None:
        found = check_engine(Engine(self.folder / "missing.sock", 20))
        self.assertEqual(found.state, State.FAULT)
        self.assertIn("no such file", found.found)

    def test_something_else_in_its_place(self) -> None:
        def reply(data: bytes) -> Answer:
            def answer(connection: socket.socket, ended: threading.Event) -> None:
                read_head(connection)
                connection.sendall(data) if data else ended.wait(120)

            return answer

        for data, text in (
            (b"", "within 0.5 seconds"),
            (b"220 smtp\r\n\r\n", "not valid HTTP"),
            (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", "has answered with 500"),
            (b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n[]", "is not Docker"),
        ):
            with self.engine(reply(data), 0.5 if not data else 20.0) as engine:
                found = check_engine(engine)
            self.assertEqual(found.state, State.FAULT)
            self.assertIn(text, found.found)

    def test_missing_images_are_named(self) -> None:
        with self.engine() as engine:
            self.assertEqual(check_images(engine, "ctllm-", "1.0").state, State.OK)
            self.fake.images.remove("ctllm-certbot:1.0")
            found = check_images(engine, "ctllm-", "1.0")
        self.assertEqual((found.state, found.found), (State.FAULT, "missing: ctllm-certbot:1.0"))

    def test_the_group_of_the_socket(self) -> None:
        with self.engine() as engine:
            group = str(engine.socket.stat().st_gid)
            self.assertEqual(check_socket_group(engine.socket, {"DOCKER_GID": group}).state, "ok")
            for wrong in ("", "99999"):
                found = check_socket_group(engine.socket, {"DOCKER_GID": wrong})
                self.assertIn(f"DOCKER_GID={group}", found.advice)
                self.assertEqual(found.state, State.FAULT)


class ContainerTests(EngineCase):
    """The containers of a server."""

    def test_all_is_well(self) -> None:
        self.assertEqual({each.state for each in self.check().values()}, {State.OK})
        self.assertEqual(set(self.check()), {SETUP_SERVICE, *SERVICES, "firewall"})

    def test_what_is_not(self) -> None:
        container = self.fake.container
        for service, value, state, text in (
            ("certbot", container("running", "unhealthy"), State.FAULT, "unhealthy"),
            ("certbot", container("running", "starting"), State.WARNING, "starting"),
            ("certbot", container("restarting", "", 1), State.FAULT, "restarting, exit code 1"),
            ("certbot", container("running"), State.FAULT, "without a health check"),
            ("web-app", container("running", "healthy", version="0.9"), State.WARNING, "0.9"),
            ("web-app", container("running", "healthy", restarts=9), State.WARNING, "9 restarts"),
            ("prepare", container("exited", "", 1), State.FAULT, "exit code 1"),
            ("prepare", container("running"), State.FAULT, "running"),
        ):
            good = self.fake.containers[service]
            self.fake.containers[service] = value
            self.assert_found(service, state, text)
            self.fake.containers[service] = good
        del self.fake.containers["nginx-proxy"]
        self.assert_found("nginx-proxy", State.FAULT, "there is no container")

    def test_containers_that_start_are_waited_for(self) -> None:
        """Only those, for a limited time, and whoever waits hears for which."""
        starting, healthy = self.fake.container("running", "starting"), dict(self.fake.containers)
        clock, notified = Clock(), list[tuple[str, ...]]()

        def sleep(seconds: float) -> None:
            clock.advance(seconds)
            if clock.seconds() == 2:
                self.fake.containers["certbot"] = healthy["certbot"]
            if clock.seconds() == becomes_healthy:
                self.fake.containers["web-app"] = self.fake.container("running", "healthy")

        self.wait = StartWait(
            10.0, lambda services: notified.append((*services,)), clock.seconds, sleep
        )
        for becomes_healthy, state in ((5, State.OK), (1000, State.WARNING)):
            clock.advance(-clock.seconds())
            self.fake.containers |= {"certbot": starting, "web-app": starting}
            del notified[:]
            self.assertEqual(self.check()["web-app"].state, state)
            self.assertEqual(notified, [("web-app", "certbot"), ("web-app",), ()])
            self.assertEqual(clock.seconds(), min(becomes_healthy, 10))
        self.fake.containers["web-app"] = self.fake.container("exited", code=1)
        self.assertEqual(self.check()["web-app"].state, State.FAULT)
        self.assertEqual((clock.seconds(), len(notified)), (10, 3), "nothing is waited for")

    def test_proxies_with_a_network_need_the_rules_of_the_firewall(self) -> None:
        proxy = {"Id": "p", "HostConfig": {"NetworkMode": "none"}}
        self.fake.proxies = [proxy, proxy]
        self.missing_rules = ["iptables -I INPUT"]
        self.assert_found("firewall", State.OK, "none of 2 streaming proxies has a network")
        self.fake.proxies[1] = {"Id": "p", "HostConfig": {"NetworkMode": "ctllm-net-1"}}
        self.assert_found("firewall", State.FAULT, "1 rules are missing")
        self.missing_rules = []
        self.assert_found("firewall", State.OK, "the rules are complete")
        with self.engine() as engine:
            refuse = mock.Mock(side_effect=ProbeError("only root can read them"))
            *_, last = ContainerChecks(engine, "shop", ENV, refuse).run()
        self.assertEqual(last.state, State.UNKNOWN)

    def test_they_are_those_of_the_compose_file(self) -> None:
        text = load_deployment().files["compose.yaml"].decode()
        services = text.partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
        named = set(re.findall(r"^  ([a-z-]+):$", services, re.MULTILINE))
        self.assertEqual(named, {SETUP_SERVICE, *SERVICES})
        images = set(re.findall(r"IMAGE_PREFIX:-ctllm-}([a-z-]+):", services))
        self.assertEqual(images, set(IMAGES))

    def test_the_ports_of_a_running_server_are_its_own(self) -> None:
        with self.engine() as engine:
            checks = ContainerChecks(engine, "shop", ENV, list)
            self.assertTrue(checks.is_running())
            self.fake.containers["nginx-proxy"] = self.fake.container("exited")
            self.assertFalse(checks.is_running())
        self.assertFalse(checks.is_running())

    def test_the_name_of_the_project_is_that_of_compose(self) -> None:
        self.assertEqual(project_name({}, Path("/srv/My.Server")), "myserver")
        self.assertEqual(project_name({}, Path("/srv/_x-1")), "x-1")
        self.assertEqual(project_name({"COMPOSE_PROJECT_NAME": "a"}, Path("/srv/b")), "a")


#: What Docker 20.10 has set for the server in `DockerRulesTests`, and Docker 28 and 29 set, too.
DOCKER_RULES = """
-P FORWARD ACCEPT
-N DOCKER
-A FORWARD -j DOCKER-USER
-A DOCKER -d 172.19.0.2/32 ! -i br-1 -o br-1 -p tcp -m tcp --dport 8443 -j ACCEPT
-P POSTROUTING ACCEPT
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.20.0.0/16 ! -o br-2 -j MASQUERADE
-A DOCKER ! -i br-1 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.19.0.2:8443
-A DOCKER ! -i br-1 -p udp -m udp --dport 443 -j DNAT --to-destination 172.19.0.2:8443
-A DOCKER ! -i br-1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.19.0.2:8080
""".strip().split("\n")


class DockerRulesTests(EngineCase):
    """Docker's own rules, which something may have removed."""

    def setUp(self) -> None:
        super().setUp()
        https = [{"HostIp": "0.0.0.0", "HostPort": "443"}, {"HostIp": "::", "HostPort": "443"}]
        http = [{"HostIp": "0.0.0.0", "HostPort": "80"}]
        self.fake.containers["nginx-proxy"]["NetworkSettings"] = {
            "Ports": {"8443/tcp": https, "8443/udp": https, "8080/tcp": http, "1/tcp": None},
            "Networks": {"shop_inbound": {"IPAddress": "172.19.0.2", "IPPrefixLen": 16},
                         "shop_pages": {"IPAddress": "172.21.0.2", "IPPrefixLen": 16}},
        }  # fmt: skip
        outbound = {"shop_outbound": {"IPAddress": "172.20.0.3", "IPPrefixLen": 16}}
        for service in ("api-backend", "certbot"):
            self.fake.containers[service]["NetworkSettings"] = {"Networks": outbound}

    def find(self, rules: Sequence[str]) -> Finding:
        with self.engine() as engine:
            return check_docker_rules(engine, "shop", lambda: rules)

    def test_all_are_set(self) -> None:
        found = self.find(DOCKER_RULES)
        self.assertEqual(found, ok("Docker rules", "all 6 that the containers need are set"))

    def test_each_that_is_missing_is_named(self) -> None:
        for part, name in (
            ("-A PREROUTING", "the jump from PREROUTING"),
            ("-A FORWARD", "the jump from FORWARD"),
            ("-p tcp -m tcp --dport 443", "port 443/tcp"),
            ("-p udp", "port 443/udp"),
            ("--dport 80 ", "port 80/tcp"),
            ("-s 172.20.0.0/16", "the way out of 172.20.0.0/16"),
        ):
            found = self.find([each for each in DOCKER_RULES if part not in each])
            self.assertEqual((found.state, found.found), (State.FAULT, f"missing: {name}"))
            self.assertIn("systemctl restart docker", found.advice)
        flushed = self.find([each for each in DOCKER_RULES if not each.startswith("-A")])
        self.assertEqual(flushed.found.count(","), 5)

    def test_engines_whose_rules_are_elsewhere_are_not_judged(self) -> None:
        for info, state in (
            ({"FirewallBackend": {"Driver": "nftables"}}, State.UNKNOWN),
            ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, State.UNKNOWN),
            ({"FirewallBackend": {"Driver": "iptables+firewalld"}}, State.FAULT),
        ):
            self.fake.info = info
            self.assertEqual(self.find([]).state, state, info)

    def test_only_root_can_read_them_and_a_stopped_server_needs_none(self) -> None:
        refuse = mock.Mock(side_effect=ProbeError("only root can read rules"))
        with self.engine() as engine:
            found = check_docker_rules(engine, "shop", refuse)
            self.assertEqual((found.state, found.advice), ("unknown", "Run the command with sudo."))
            self.fake.containers = {}
            self.assertEqual(check_docker_rules(engine, "shop", refuse).state, State.OK)


class MachineTests(EngineCase):
    """The machine."""

    def test_all_checks_of_a_new_folder_run(self) -> None:
        env = {**ENV, "DOMAIN": "a.invalid", "DOCKER_SOCKET": str(self.folder / "docker.sock"),
               "HTTP_PORT": "127.0.0.1:0", "SOCKETS_DIR": "/nowhere/at/all"}  # fmt: skip
        firewall = FirewallReader(list, list)
        machine = ServerMachine(self.folder, env, load_deployment(), 5.0, firewall)
        hosts = (machine.target.host, machine.site.host)
        self.assertEqual(hosts, ("app.a.invalid", "a.invalid"))
        name = "ctllm.server.checks.inside.check_name"
        with mock.patch(name, side_effect=lambda name, _: ok("DNS", name)), self.engine():
            found = {
                each.found: each for each in machine.checks_before_start(["docker", "compose"])
            }
            running = list(machine.checks_while_running(FolderState(env, (), __version__)))
        self.assertLessEqual({"a.invalid", "app.a.invalid", "docker compose"}, set(found))
        self.assertIn("HTTP_PORT: '127.0.0.1:0' is no port", found)
        self.assertIn("443 is the server's, which runs", found)
        checks = [each.check for each in running]
        self.assertEqual(checks[:4], ["Docker", "group", "prepare", "api-backend"])
        expected = {"firewall", "Docker rules", "folder", "memory", "disk", "NTP"}
        self.assertLessEqual(expected, set(checks))

    def test_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = server.getsockname()[1]
            for text in (f"127.0.0.1:{taken}", str(taken)):
                found = check_port("HTTP_PORT", text, False)
                self.assertEqual((found.state, found.found), (State.FAULT, f"{taken} is in use"))
            self.assertEqual(check_port("HTTP_PORT", str(taken), True).state, State.OK)
        self.assertEqual(check_port("HTTP_PORT", f"127.0.0.1:{taken}", False).state, State.OK)
        self.assertEqual(check_port("HTTP_PORT", "192.0.2.1:80", False).state, State.FAULT)
        refusal = mock.patch("socket.socket.bind", side_effect=PermissionError)
        with refusal:
            self.assertEqual(check_port("HTTP_PORT", "80", False).state, State.UNKNOWN)
        for text in ("", "x", "0", "70000", "a:80", "80/udp", "²", "[::1", "1.2.3:80"):
            self.assertEqual(check_port("HTTP_PORT", text, False).state, State.FAULT, text)
        self.assertEqual(PublishedPort.parse("[::1]:80"), PublishedPort("::1", 80))

    def test_names_must_lead_here(self) -> None:
        def judge(*addresses: str) -> tuple[State, str]:
            found = judge_addresses("a.example", addresses, lambda each: each == "8.8.8.8")
            return found.state, found.found

        self.assertEqual(judge("8.8.8.8")[0], State.OK)
        self.assertIn("9.9.9.9 is no address of this machine", judge("8.8.8.8", "9.9.9.9")[1])
        for private in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"):
            state, found = judge("8.8.8.8", private)
            self.assertEqual(state, State.WARNING)
            self.assertIn(f"{private} is not of the internet", found)
        self.assertTrue(is_local_address("127.0.0.1"))
        self.assertFalse(is_local_address("192.0.2.1"))
        self.assertFalse(is_local_address("2001:db8::1"))

    def test_memory_and_disk(self) -> None:
        self.assertEqual(judge_memory(100, 8 * GB, 4 * GB).state, State.OK)
        self.assertEqual(judge_memory(100, 8 * GB, GB // 10).state, State.WARNING)
        found = judge_memory(100, 2 * GB, GB)
        self.assertEqual((found.state, found.advice[:16]), (State.FAULT, "Set MAX_USERS=37"))
        self.assertEqual(check_memory("many").state, State.FAULT)
        self.assertEqual(check_memory("9", self.folder / "none").state, State.UNKNOWN)
        self.assertEqual(judge_disk("/", 9 * GB, 0.5).state, State.OK)
        self.assertEqual(judge_disk("/", 9 * GB, 0.01).state, State.WARNING)
        self.assertEqual(judge_disk("/", GB, 0.5).state, State.WARNING)
        self.assertEqual(judge_disk("/", GB // 4, 0.5).state, State.FAULT)
        self.assertEqual(len(check_disks([self.folder, self.folder / "not/yet"])), 1)

    def test_the_limits_of_the_kernel(self) -> None:
        """The advice has the lines of the file; without a number of users, memory has the fault."""
        asked = []

        def find(containers: int, has_networks: bool) -> list[LowLimit]:
            asked.append((containers, has_networks))
            return [LowLimit("fs.inotify.max_user_instances", 128, containers + 128)]

        found = check_kernel_limits("1000", find)
        self.assertEqual((found.state, asked), (State.WARNING, [(1000, False)]))
        self.assertIn("fs.inotify.max_user_instances is 128, not 1128", found.found)
        self.assertIn("fs.inotify.max_user_instances = 1128", found.advice)
        self.assertEqual(check_kernel_limits("10", lambda *_: []).state, State.OK)
        for text in ("many", "", "9" * 7):
            self.assertEqual(check_kernel_limits(text, find).state, State.OK)

    def test_programs_that_say_something_else(self) -> None:
        for output, state in (("yes\n", "ok"), ("no\n", "warning"), (None, "unknown")):
            self.assertEqual(check_time_synchronisation(lambda *_: output).state, state)  # noqa: B023
        outputs: dict[str, str | None] = {"docker": "v2.24.5\n", "docker-compose": "1.29.2\n"}
        self.assertEqual(find_compose(lambda *argv: outputs[argv[0]]), ("docker", "compose"))
        for plugin in (None, "\x1b[31m", "1.0"):
            outputs["docker"] = plugin
            self.assertEqual(find_compose(lambda *argv: outputs[argv[0]]), ("docker-compose",))
        for program in (None, "1.25.0", "x"):
            outputs["docker-compose"] = program
            self.assertEqual(find_compose(lambda *argv: outputs[argv[0]]), ())
        self.assertEqual(parse_version("9" * 5000), (999_999,))

    def test_the_socket_is_that_of_env_then_of_the_environment(self) -> None:
        environ = {"DOCKER_HOST": "unix:///a.sock"}
        self.assertEqual(docker_socket({"DOCKER_SOCKET": "/b.sock"}, environ), Path("/b.sock"))
        self.assertEqual(docker_socket({}, environ), Path("/a.sock"))
        tcp = {"DOCKER_HOST": "tcp://1.2.3.4:2375"}
        self.assertEqual(docker_socket({}, tcp), Path("/var/run/docker.sock"))

    def test_the_folder(self) -> None:
        self.assertEqual(judge_folder(FolderState({}, (), "1.0"), "1.0").state, State.OK)
        for state in (FolderState({}, ("a.new",), "1.0"), FolderState({}, (), "0.9"),
                      FolderState({}, (), "")):  # fmt: skip
            self.assertEqual(judge_folder(state, "1.0").state, State.WARNING)


class ExitCodeTests(SynchronousTestCase):
    """What a script gets."""

    def test_a_fault_is_2_and_a_warning_only_if_strict(self) -> None:
        good, odd, risky = ok("a", ""), unknown("a", ""), warning("a", "", "")
        bad = fault("a", "", "")
        self.assertEqual(exit_code([good, odd, risky]), 0)
        self.assertEqual(exit_code([good, odd, risky], is_strict=True), 2)
        self.assertEqual(exit_code([good, odd], is_strict=True), 0)
        self.assertEqual(exit_code([bad, good]), 2)
        self.assertEqual(summarise([bad, risky, risky]), "1 fault and 2 warnings.")
        self.assertEqual(summarise([good, odd]), "No fault and no warning.")
