"""What `ctllm firewall --watch` tells the cloud."""

from __future__ import annotations

import msgspec

#: The most bytes of a status.
MAX_STATUS_BYTES = 1024


class FirewallStatus(msgspec.Struct, frozen=True):
    """The one line of JSON that each connection to the firewall's socket gets.

    It is true of a moment after the connection was made: the rules were read, and set again if any
    was missing. `problem` is a sentence, or empty if containers are isolated from this machine.
    """

    problem: str
