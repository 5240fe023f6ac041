"""Cookies of browsers: reading one, and setting it so that no script or other site can use it.

With an https URL the name has the prefix `__Host-` (RFC 6265bis, section 4.1.3.2): browsers accept
it from this host only, over https, for all paths. With an http URL they would refuse it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctllm.http.message.head import Headers, RequestHead


@dataclass(frozen=True, slots=True)
class CookieKind:
    """A cookie of a cloud: its `name` without prefix, and to which requests it belongs.

    `path` counts with http only. `same_site` is Strict, or Lax for one that has to come with a link
    from another site.
    """

    name: bytes
    path: bytes
    is_https: bool
    same_site: bytes = b"Strict"

    @property
    def full_name(self) -> bytes:
        """The name with its prefix."""
        return b"__Host-" + self.name if self.is_https else self.name

    def read(self, head: RequestHead) -> str | None:
        """Return the value of the cookie in `head`.

        Of two with the same name, one was set by another host of the domain: return None.
        """
        pairs = [
            pair.strip().partition(b"=")
            for name, value in head.headers
            if name.lower() == b"cookie"
            for pair in value.split(b";")
        ]
        values = [value for name, _, value in pairs if name == self.full_name and value]
        return values[0].decode("latin-1") if len(values) == 1 else None

    def set(self, value: bytes, max_age: int) -> Headers:
        """Return the header that sets the cookie for `max_age` seconds; 0 removes it."""
        path = b"/; Secure" if self.is_https else self.path
        attributes = b"Path=%s; HttpOnly; SameSite=%s; Max-Age=%d" % (path, self.same_site, max_age)
        return ((b"Set-Cookie", b"%s=%s; %s" % (self.full_name, value, attributes)),)
