"""A panel of X's older kind: the system tray, into which icons embed their windows.

It runs as a process in the display of its environment. It prints `ready`, then a line for each icon
that is embedded.
"""

from __future__ import annotations

from Xlib import X
from Xlib.display import Display
from Xlib.protocol.event import ClientMessage

#: The request of the protocol to embed a window.
REQUEST_DOCK = 0


def main() -> None:
    display = Display()
    root = display.screen().root
    window = root.create_window(0, 0, 64, 64, 0, display.screen().root_depth)
    selection = display.intern_atom("_NET_SYSTEM_TRAY_S0")
    opcode = display.intern_atom("_NET_SYSTEM_TRAY_OPCODE")
    window.set_selection_owner(selection, X.CurrentTime)
    data = (32, [X.CurrentTime, selection, window.id, 0, 0])
    manager = ClientMessage(window=root, client_type=display.intern_atom("MANAGER"), data=data)
    root.send_event(manager, event_mask=X.StructureNotifyMask)
    window.map()
    display.sync()
    print("ready", flush=True)
    while True:
        event = display.next_event()
        if event.type == X.ClientMessage and event.client_type == opcode:
            _, request, icon, *_ = event.data[1]
            if request == REQUEST_DOCK:
                display.create_resource_object("window", icon).reparent(window, 0, 0)
                display.sync()
                print(f"embedded {icon}", flush=True)


if __name__ == "__main__":
    main()
