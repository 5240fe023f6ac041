"""`ctllm.cloud.firewall`: commands, applied to a model of iptables and ip."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.firewall import Command, FirewallState, install_commands, removal_commands

POOL = IPv4Network("10.128.0.0/12")
EMPTY = ["-P INPUT ACCEPT", "-P FORWARD ACCEPT", "-P OUTPUT ACCEPT"]
OURS = [
    "-N CTLLM",
    "-A INPUT -i ctl+ -j CTLLM",
    "-A FORWARD -i ctl+ -j DROP",
    "-A FORWARD -o ctl+ -j DROP",
    "-A CTLLM -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A CTLLM -j DROP",
]
OTHERS = ["-N f2b", "-A INPUT -p tcp -j f2b", "-A INPUT -j ACCEPT", "-A FORWARD -i br0 -j ACCEPT"]
ROUTES = ["blackhole 10.128.0.0/12 metric 9999", "blackhole 10.144.0.0/16 metric 9999",
          "blackhole 10.9.0.0/16 metric 5", "blackhole 10.8.0.0/16"]  # fmt: skip


def applied(found: FirewallState, commands: list[Command]) -> FirewallState:
    """Return the state after the commands. Fails where the real programs would."""
    rules = {program: list(lines) for program, lines in found.rules.items()}
    routes = list(found.routes)
    for program, *words in commands:
        if program == "ip":
            line = " ".join(["blackhole", *words[4:]])
            (routes.append if words[2] == "add" else routes.remove)(line)
        else:
            _apply(rules[program], words[1:])
    return FirewallState(rules, routes)


def _apply(lines: list[str], words: list[str]) -> None:
    what, chain, *rest = words
    mine = [line for line in lines if line.startswith(f"-A {chain} ")]
    match what:
        case "-N":
            assert f"-N {chain}" not in lines
            lines.append(f"-N {chain}")
        case "-F":
            assert f"-N {chain}" in lines
            lines[:] = [line for line in lines if line not in mine]
        case "-X":
            assert not mine and not any(line.endswith(f" -j {chain}") for line in lines)
            lines.remove(f"-N {chain}")
        case "-A":
            lines.append(" ".join(words))
        case "-I":
            assert rest[0] == "1"
            at = lines.index(mine[0]) if mine else len(lines)
            lines.insert(at, " ".join(["-A", chain, *rest[1:]]))
        case "-D" if rest[0].isdecimal():
            _remove_nth(lines, f"-A {chain} ", int(rest[0]))
        case "-D":
            lines.remove(" ".join(["-A", chain, *rest]))
        case _:
            raise AssertionError(words)


def _remove_nth(lines: list[str], start: str, nth: int) -> None:
    at = [index for index, line in enumerate(lines) if line.startswith(start)][nth - 1]
    del lines[at]


def chain(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if line.startswith(f"-A {name} ")]


tables = st.lists(st.sampled_from([*OURS[1:], *OTHERS[1:]]), max_size=12).map(
    lambda rules: [*EMPTY, OURS[0], OTHERS[0], *rules]
)


class FirewallTests(SynchronousTestCase):
    @given(st.one_of(tables, st.just(EMPTY)), st.lists(st.sampled_from(ROUTES), unique=True))
    def test_install_commands_add_what_is_missing_and_keep_other_rules(
        self, lines: list[str], routes: list[str]
    ) -> None:
        found = FirewallState({"iptables": lines, "ip6tables": EMPTY}, routes)
        then = applied(found, install_commands(found, POOL))
        for after in then.rules.values():
            entrance = chain(list(after), "INPUT")
            self.assertEqual(entrance[0], OURS[1])
            self.assertNotIn(OURS[1], entrance[1:])
            self.assertEqual(chain(list(after), "CTLLM"), OURS[4:])
            self.assertLessEqual(set(OURS[2:4]), set(after))
        kept = [line for line in lines if line not in OURS]
        self.assertEqual([line for line in then.rules["iptables"] if line not in OURS], kept)
        wanted = {ROUTES[0], *(each for each in routes if "9999" not in each)}
        self.assertEqual(set(then.routes), wanted)
        self.assertEqual(install_commands(then, POOL), [])

    @given(tables, st.lists(st.sampled_from(ROUTES), unique=True))
    def test_removal_commands_remove_all_and_nothing_else(
        self, lines: list[str], routes: list[str]
    ) -> None:
        found = FirewallState({"iptables": lines}, routes)
        then = applied(found, removal_commands(found))
        kept = [line for line in lines if line not in OURS]
        self.assertEqual(list(then.rules["iptables"]), kept)
        self.assertEqual(list(then.routes), [each for each in routes if "9999" not in each])
        self.assertEqual(removal_commands(then), [])

    def test_fills_the_chain_before_jumping_to_it(self) -> None:
        commands = install_commands(FirewallState({"iptables": EMPTY}, []), POOL)
        words = [" ".join(each) for each in commands]
        jump = words.index("iptables -w -I INPUT 1 -i ctl+ -j CTLLM")
        self.assertGreater(jump, words.index("iptables -w -A CTLLM -j DROP"))
