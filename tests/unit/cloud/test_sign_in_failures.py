"""Sign-ins that fail: on a full disk, and with an invitation that another one redeemed."""

from __future__ import annotations

from typing import Any
from unittest import mock

from ctllm.errors import ServiceUnavailable
from tests.unit.cloud.gateway_case import GatewayCase


class SignInFailureTests(GatewayCase):
    def test_a_full_disk_gets_503_and_redeems_no_invitation(self) -> None:
        """The same link works once there is space."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        full = ServiceUnavailable("Cannot write: no space left. Free some space on the disk.")
        with mock.patch.object(self.sessions, "create", side_effect=full):
            self.assertEqual(self.send("POST /ctllm/session", body), 503)
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.send("POST /ctllm/session", body), 401)

    def test_of_two_simultaneous_sign_ins_one_succeeds(self) -> None:
        """The session of the other one is revoked."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        user, create = self.invites.verify(body["invite"]), self.sessions.create
        self.invites.redeem(body["invite"])
        created: list[str] = []

        def record_session(*arguments: Any) -> str:
            created.append(create(*arguments))
            return created[-1]

        with (
            mock.patch.object(self.invites, "verify", return_value=user),
            mock.patch.object(self.sessions, "create", record_session),
        ):
            self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": created[0]}), 401)
