"""A file that one process holds; the system lets go of it when that process ends, however."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt

    def hold(handle: int) -> None:
        """Hold the file of an open `handle`; raises OSError while another process does."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def hold(handle: int) -> None:
        """Hold the file of an open `handle`; raises OSError while another process does."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
