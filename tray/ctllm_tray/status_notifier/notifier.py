"""Notifications by `org.freedesktop.Notifications`."""

from __future__ import annotations

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from PIL import Image

from ctllm_tray.status_notifier.pixmaps import make_notification_image

_SERVICE, _PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
#: The service chooses how long it shows a notification.
_DEFAULT_TIMEOUT = -1


class Notifier:
    """Shows notifications of an application, each in place of the last one.

    Without a notification service it shows none.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._last_id = 0

    async def notify(
        self, bus: MessageBus, title: str, text: str, image: Image.Image | None
    ) -> None:
        """Show a notification."""
        hints = {}
        if image is not None:
            hints["image-data"] = Variant("(iiibiiay)", make_notification_image(image))
        body = [self._application, self._last_id, "", title, text, [], hints, _DEFAULT_TIMEOUT]
        reply = await _call(bus, "Notify", "susssasa{sv}i", body)
        if reply.message_type is MessageType.METHOD_RETURN:
            self._last_id = reply.body[0]

    async def close(self, bus: MessageBus) -> None:
        """Remove the last notification."""
        await _call(bus, "CloseNotification", "u", [self._last_id])


async def _call(bus: MessageBus, member: str, signature: str, body: list[object]) -> Message:
    return await bus.call(
        Message(_SERVICE, _PATH, _SERVICE, member, signature=signature, body=body)
    )
