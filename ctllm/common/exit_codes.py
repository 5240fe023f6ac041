"""Exit codes of a streaming proxy, for whoever runs it."""

from __future__ import annotations

#: It met a MemoryError (the number is errno's ENOMEM).
OUT_OF_MEMORY = 12
#: What its user and the log are told of that, and of a proxy that the system ended for it.
OUT_OF_MEMORY_MESSAGE = "it wanted more memory than it may have"
