"""Which side gets a request: one table of preferences, and what is known of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ctllm.desktop.broker.flap_damping import Trust


class Side(StrEnum):
    """Where an answer may come from."""

    LOCAL = "local"
    CLOUD = "cloud"

    @property
    def other(self) -> Side:
        """The one that is not this one."""
        return Side.CLOUD if self is Side.LOCAL else Side.LOCAL


class Preference(StrEnum):
    """What the user wants.

    AUTO: this machine first, and the cloud for models that only another desktop has. LOCAL: this
    machine, and the cloud only while its Ollama fails. CLOUD: the other desktops, and this machine
    while they fail. NEVER: no request ever leaves this machine.
    """

    AUTO = "auto"
    LOCAL = "local"
    CLOUD = "cloud"
    NEVER = "never"


_FIRST = {
    Preference.AUTO: Side.LOCAL,
    Preference.LOCAL: Side.LOCAL,
    Preference.CLOUD: Side.CLOUD,
    Preference.NEVER: Side.LOCAL,
}


def choose(
    preference: Preference, trust: Mapping[Side, Trust], only_elsewhere: bool, now: float
) -> Side:
    """The side to ask first; `only_elsewhere` says that this machine lacks what another has.

    A side that is down is asked only where the other one is, too: its error says what is wrong.
    """
    wanted = _FIRST[preference]
    if preference is Preference.NEVER:
        return wanted
    if preference is Preference.AUTO and only_elsewhere and trust[Side.CLOUD].up:
        return Side.CLOUD
    other = wanted.other
    if trust[wanted].trusted(now) or not trust[other].up:
        return wanted
    if trust[wanted].up and not trust[other].trusted(now):
        return wanted  # both are shaky
    return other


def second(preference: Preference, trust: Mapping[Side, Trust], tried: Side) -> Side | None:
    """The side that may be asked after `tried` failed, or None."""
    if preference is Preference.NEVER or not trust[tried.other].up:
        return None
    return tried.other
