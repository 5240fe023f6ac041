"""Internals of autobahn's WebSocket protocols, which have no public equivalent.

autobahn reads frames in about twenty calls, so `ctllm.tunnel.websocket` reads plain frames itself.
That is right only while autobahn is between two messages. Its `sendClose` refuses the close codes
of RFC 6455 that a server needs, such as 1001 (going away).
"""

from __future__ import annotations

from typing import Any


def is_between_messages(protocol: Any) -> bool:
    """Whether autobahn holds no part of a frame or message, so that frames may bypass it.

    False if this version of autobahn lacks the attributes: then autobahn reads every frame.
    """
    try:
        return not (protocol.data or protocol.current_frame is not None or protocol.inside_message)
    except AttributeError:
        return False


def send_close(protocol: Any, code: int, reason: bytes = b"") -> None:
    """Start the closing handshake with any code of RFC 6455, section 7.4.1.

    Without autobahn's internal method the peer reads code 1000 (normal closure).
    """
    if hasattr(protocol, "sendCloseFrame"):
        protocol.sendCloseFrame(code, reason)
    else:
        protocol.sendClose(1000, reason.decode())


def drop(protocol: Any, reason: str) -> None:
    """Close the connection at once, without a closing handshake; `onClose` gets `reason`."""
    if hasattr(protocol, "dropConnection"):
        protocol.wasClean, protocol.wasNotCleanReason = False, reason
        protocol.dropConnection(abort=True)
    else:
        protocol.transport.abortConnection()
