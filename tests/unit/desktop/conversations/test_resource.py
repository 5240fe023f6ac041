"""Tests of the requests for conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.key import ConversationKey
from ctllm.desktop.conversations.resource import ConversationsResource
from ctllm.desktop.conversations.service import Conversations
from ctllm.desktop.conversations.store import ConversationStore
from ctllm.desktop.secret_store import SecretStores
from ctllm.errors import ClientDisconnected
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import RequestHead
from tests.unit.desktop.test_login_store import MemoryStore
from tests.unit.fakes import FakeResponseSink

A = "a" * 32
PATH = "/ctllm/desktop/conversations"


class ResourceCase(TestCase):
    """A resource with a store whose thread is this one."""

    def setUp(self) -> None:
        """Store nothing yet."""
        self.conversations = self.make_conversations()
        self.resource = ConversationsResource(
            lambda: self.conversations, max_document=1000, max_buffered=2500
        )

    def make_conversations(self) -> Conversations:
        """Make those of a user."""
        directory = Path(self.mktemp())
        key = ConversationKey(directory, SecretStores([MemoryStore("file")], ["file"]))

        def run(function: Callable[[], Any]) -> Deferred[Any]:
            return succeed(function())

        return Conversations(key, lambda key: ConversationStore(directory, key), cast(Any, run))

    def start(
        self, method: str, path: str, headers: dict[str, str]
    ) -> tuple[RequestSink, FakeResponseSink]:
        """Start a request."""
        named = tuple(
            (name.replace("_", "-").lower().encode(), value.encode())
            for name, value in headers.items()
        )
        sink = FakeResponseSink()
        target = (PATH + path).encode()
        head = RequestHead(method.encode(), target, named)
        return self.resource.start_request(head, sink), sink

    def send(
        self, method: str, path: str = "", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[bytes, bytes], Any]:
        """Send a request; return status, headers and decoded body."""
        request, sink = self.start(method, path, headers)
        if body:
            request.write(body)
        request.finish()
        head = cast(Any, sink).head
        data = cast(Any, sink).data
        return head.status, dict(head.headers), json.loads(data) if data else None


class ResourceTests(ResourceCase):
    """Requests and their responses."""

    def test_a_document_goes_in_and_out_unchanged(self) -> None:
        """Byte for byte: the desktop does not look into it."""
        document = b' {"a" : 1.0,\n"b":"\\u00e4"}'
        status, headers, body = self.send("PUT", f"/{A}", document, If_None_Match="*")
        self.assertEqual((status, headers[b"ETag"]), (201, b'"%d"' % body["revision"]))
        request, sink = self.start("GET", f"/{A}", {})
        request.finish()
        self.assertEqual(cast(Any, sink).data, document)
        self.assertEqual(dict(cast(Any, sink).head.headers)[b"ETag"], headers[b"ETag"])

    def test_a_refused_precondition_tells_the_present_revision(self) -> None:
        """As an entity tag; without one there is none."""
        _, headers, _ = self.send("PUT", f"/{A}", b"{}", If_None_Match="*")
        status, refused, body = self.send("PUT", f"/{A}", b"{}", If_None_Match="*")
        self.assertEqual((status, refused[b"ETag"]), (412, headers[b"ETag"]))
        self.assertEqual(body["error"]["code"], "precondition_failed")
        status, refused, _ = self.send("DELETE", f"/{A}", If_Match='"1"')
        self.assertEqual((status, refused[b"ETag"]), (412, headers[b"ETag"]))
        status, refused, _ = self.send("PUT", f"/{'b' * 32}", b"{}", If_Match='"1"')
        self.assertEqual((status, b"ETag" in refused), (412, False))

    def test_what_is_no_json_object_is_refused(self) -> None:
        """Without quoting it."""
        for document in (b"[1]", b"{", b'"text"', b"{} {}", b"", b"{" * 500):
            status, _, body = self.send("PUT", f"/{A}", document, If_None_Match="*")
            self.assertEqual((status, body["error"]["code"]), (400, "bad_request"))
        self.assertEqual(self.send("GET")[2]["conversations"], [])

    def test_refusals_are_responses_whatever_the_body_is(self) -> None:
        """An older proxy passes them on."""
        for body in (b"", b"x" * 3000):
            self.assertEqual(self.send("PUT", f"/{A}", body)[0], 428)
            self.assertEqual(self.send("PUT", f"/{A}", body, If_Match="x")[0], 400)
            self.assertEqual(self.send("PUT", "/x", body, If_None_Match="*")[0], 404)
            status, headers, _ = self.send("POST", f"/{A}", body)
            self.assertEqual((status, headers[b"Allow"]), (405, b"GET, PUT, DELETE"))

    def test_a_document_has_a_limit(self) -> None:
        """Of bytes."""
        largest = b'{"a":"' + b"x" * 992 + b'"}'
        self.assertEqual(self.send("PUT", f"/{A}", largest, If_None_Match="*")[0], 201)
        status, _, body = self.send("PUT", f"/{A}", largest + b" ", If_Match='"1"')
        self.assertEqual((status, body["error"]["code"]), (413, "too_large"))

    def test_bodies_that_are_on_their_way_have_a_limit_together(self) -> None:
        """One that is cancelled makes room."""
        started = [self.start("PUT", f"/{A}", {"If-None-Match": "*"}) for _ in range(4)]
        for request, _ in started:
            request.write(b"x" * 1000)
        self.assertEqual([cast(Any, sink).head.status for _, sink in started[3:]], [503])
        self.assertEqual(self.send("GET")[0], 503)
        for request, _ in started[:3]:
            request.cancel(ClientDisconnected("gone"))
        self.assertEqual(self.send("PUT", f"/{A}", b"{}", If_None_Match="*")[0], 201)

    def test_responses_that_are_not_read_have_a_limit_together(self) -> None:
        """A reader that never reads holds no more than its share."""
        self.send("PUT", f"/{A}", b'{"a":"' + b"x" * 900 + b'"}', If_None_Match="*")
        started = []
        for _ in range(4):
            request, sink = self.start("GET", f"/{A}", {})
            request.pause_response()
            request.finish()
            started.append((request, sink))
        self.assertEqual([cast(Any, sink).head.status for _, sink in started], [200, 200, 200, 503])
        for request, _ in started:
            request.resume_response()
        self.assertEqual(self.send("GET", f"/{A}")[0], 200)

    def test_a_request_keeps_to_the_user_for_whom_it_began(self) -> None:
        """However long its body takes, and whoever logs in meanwhile."""
        started, _ = self.start("PUT", f"/{A}", {"If_None_Match": "*"})
        listing, listed = self.start("GET", "", {})
        former, self.conversations = self.conversations, self.make_conversations()
        started.write(b"{}")
        started.finish()
        self.assertEqual(self.send("GET")[2]["conversations"], [])
        listing.finish()
        self.assertIn(A.encode(), cast(Any, listed).data)
        self.conversations = former
        self.assertEqual(self.send("GET", f"/{A}")[0], 200)

    def test_a_desktop_that_stores_none_says_so(self) -> None:
        """With the key of the configuration."""
        self.resource = ConversationsResource(None)
        status, _, body = self.send("GET")
        self.assertEqual(status, 403)
        self.assertIn("desktop.conversations", body["error"]["message"])
