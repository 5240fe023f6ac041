"""An icon by D-Bus alone: `org.kde.StatusNotifierItem` with a menu by `com.canonical.dbusmenu`.

It takes the place of pystray's backends for Linux, which load GTK for the same, and with it three
times the memory of the rest of the tray.
"""
