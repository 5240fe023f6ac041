"""A prompter of GNOME Keyring in place of gcr-prompter, which needs a screen and a person.

`python -m tests.e2e.keyring_prompter BUS silent|dismiss` shows nothing. It never answers, or it
answers as the button Cancel does. It prints `ready`, and `asked` for each dialog that begins.
"""

from __future__ import annotations

import sys

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_method_call,
    new_method_return,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

NAME = "org.gnome.keyring.SystemPrompter"
CALLBACK = "org.gnome.keyring.internal.Prompter.Callback"


def main(bus: str, answer: str) -> None:
    """Serve until the process is terminated."""
    connection = open_dbus_connection(bus=bus)
    connection.send_and_get_reply(message_bus.RequestName(NAME))
    print("ready", flush=True)
    while True:
        message = connection.receive()
        if message.header.message_type is not MessageType.method_call:
            continue
        member = message.header.fields[HeaderFields.member]
        if member == "BeginPrompting":
            print("asked", flush=True)
        connection.send(new_method_return(message))
        if answer == "dismiss":
            dismiss(connection, message, str(member))


def dismiss(connection: DBusConnection, message: Message, member: str) -> None:
    """Let the keyring go on to the dialog, and then cancel that."""
    callback = DBusAddress(message.body[0], message.header.fields[HeaderFields.sender], CALLBACK)
    if member in ("BeginPrompting", "PerformPrompt"):
        reply = "" if member == "BeginPrompting" else "no"
        connection.send(new_method_call(callback, "PromptReady", "sa{sv}s", (reply, {}, "")))
    elif member == "StopPrompting":
        connection.send(new_method_call(callback, "PromptDone"))


if __name__ == "__main__":
    main(*sys.argv[1:])
