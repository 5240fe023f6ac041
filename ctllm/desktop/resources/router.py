"""Routes requests for this desktop's own resources, and checks the scope of their client."""

from __future__ import annotations

from collections.abc import Mapping

from ctllm.auth.session_assertions import CONVERSATIONS
from ctllm.errors import Forbidden, NotFound
from ctllm.http.header_policy import SCOPE
from ctllm.http.interfaces import RequestSink, ResponseSink, Upstream
from ctllm.http.message.head import RequestHead, get_header

PREFIX = b"/ctllm/desktop/"
"""The prefix of the paths of resources."""


class ResourceRouter:
    """Passes requests below PREFIX to resources, and all others to `ollama`. An `Upstream`.

    `resources` are by the segment of the path after PREFIX: `/ctllm/desktop/NAME` and all paths
    below it. Clients that the gateway has verified, or the loopback endpoint, need the scope
    `conversations`.
    """

    def __init__(self, resources: Mapping[bytes, Upstream], ollama: Upstream) -> None:
        self._resources = resources
        self._ollama = ollama

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises CtllmError."""
        if not head.path.startswith(PREFIX):
            return self._ollama.start_request(head, sink)
        scopes = (get_header(head.headers, SCOPE.lower()) or b"").split()
        if CONVERSATIONS.encode() not in scopes:
            raise Forbidden("Only the chat page may use the conversations of a desktop.")
        name = head.path.removeprefix(PREFIX).partition(b"/")[0]
        resource = self._resources.get(name)
        if resource is None:
            raise NotFound("This desktop has no such resource. Is its ctllm up to date?")
        return resource.start_request(head, sink)
