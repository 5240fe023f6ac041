"""Judges the certificate of a server. Nothing here connects to one."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509

from ctllm.server.checks.findings import Finding, fault, ok, warning

_CHECK = "certificate"
_LOGS = "See why with: docker compose logs certbot"
#: A certificate is renewed when a third of its lifetime is left, or half of that of short ones.
#: Below these fractions, renewals have failed for long.
_WARNING, _FAULT = 1 / 4, 1 / 10
_NO_CERTIFICATE_YET = "ctllm: no certificate yet"


def judge_certificate(der: bytes, verify_error: str, now: datetime) -> Finding:
    """Return the finding for a certificate. `verify_error` is why it was refused, or empty."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = certificate.issuer.rfc4514_string()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        return fault(_CHECK, f"it is damaged: {error}", _LOGS)
    if _NO_CERTIFICATE_YET in issuer:
        return fault(_CHECK, "certbot has got none yet", _LOGS)
    left = describe_time(end - now)
    if now >= end:
        return fault(_CHECK, f"it expired {describe_time(now - end)} ago", _LOGS)
    if now < begin:
        when = f"it is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        return fault(_CHECK, when, "Compare the clocks of both machines: timedatectl")
    if verify_error:
        return fault(_CHECK, f"it is refused: {verify_error} (issuer: {issuer})", _advice(issuer))
    if end - now < (end - begin) * _FAULT:
        return fault(_CHECK, f"{left} left: it was not renewed", _LOGS)
    if end - now < (end - begin) * _WARNING:
        return warning(_CHECK, f"{left} left: it should have been renewed", _LOGS)
    return ok(_CHECK, f"valid, {left} left (issuer: {issuer})")


def _advice(issuer: str) -> str:
    if "STAGING" in issuer.upper():
        return "Remove ACME_SERVER from .env, then: docker compose up -d"
    return (
        "Its names must be those of the server, and its issuer known here ($SSL_CERT_FILE names "
        "authorities of your own)."
    )


def describe_time(time: timedelta) -> str:
    """Return a time in days, below two days in hours."""
    hours = time.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours // 24:.0f} days"
