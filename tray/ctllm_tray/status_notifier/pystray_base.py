"""pystray without the backend that it would choose for this system, which may load GTK.

pystray's backend for no system has the base class of all icons as its `Icon`.
"""

from __future__ import annotations

import os

_VARIABLE = "PYSTRAY_BACKEND"
_chosen = os.environ.get(_VARIABLE)
os.environ[_VARIABLE] = "dummy"
try:
    from pystray import Icon, Menu, MenuItem
finally:
    # The programs that the tray starts get it as it was.
    del os.environ[_VARIABLE]
    if _chosen is not None:
        os.environ[_VARIABLE] = _chosen

__all__ = ["Icon", "Menu", "MenuItem"]
