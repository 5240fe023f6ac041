"""Exit codes of a streaming proxy."""

from __future__ import annotations

#: The process met a MemoryError (the value of errno.ENOMEM).
OUT_OF_MEMORY = 12
#: The clause, in logs and messages, for a proxy that ended so or was killed by the system for it.
OUT_OF_MEMORY_MESSAGE = "it needed more memory than its limit"
