"""The audit log: who signed in, what was refused, and the life of streaming proxies."""

from ctllm.cloud.audit.entries import (
    IDENTITY_EVENTS,
    PROXY_EVENTS,
    AuditEntry,
    IdentityEvent,
    ProxyEvent,
)
from ctllm.cloud.audit.file import AuditFile
from ctllm.cloud.audit.log import AUDIT_FILE, COUNT_INTERVAL, AuditLog
from ctllm.cloud.audit.reader import AuditFilter, AuditReader, epoch_seconds

__all__ = [
    "AUDIT_FILE",
    "COUNT_INTERVAL",
    "IDENTITY_EVENTS",
    "PROXY_EVENTS",
    "AuditEntry",
    "AuditFile",
    "AuditFilter",
    "AuditLog",
    "AuditReader",
    "IdentityEvent",
    "ProxyEvent",
    "epoch_seconds",
]
