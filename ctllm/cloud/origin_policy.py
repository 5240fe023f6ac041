"""Which web pages may use the cloud: CORS headers of responses, and the origins of WebSockets."""

from __future__ import annotations

from ctllm.errors import CtllmError, Forbidden
from ctllm.http.cors import CorsPolicy, is_preflight, requests_api_key
from ctllm.http.credentials import presented_tokens
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.origins import OLLAMA_ORIGINS, origin_matcher
from ctllm.http.same_site import has_one_origin, is_own_origin


class OriginPolicy:
    """The policy of a cloud that allows the pages of `origins`, and with a key those of Ollama."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._configured_origins = CorsPolicy(origin_matcher(origins))
        self._local_origins = CorsPolicy(origin_matcher(OLLAMA_ORIGINS), credentials=False)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers of CORS that every response to `head` has."""
        if get_header(head.headers, b"origin") is None:
            return ()
        try:
            return self._policy_for(head).response_headers(head)
        except CtllmError:
            return ()

    def preflight_headers(self, head: RequestHead) -> Headers:
        """Return the other headers of the response to a preflight; raises CtllmError."""
        return self._policy_for(head).preflight_headers(head)

    def _policy_for(self, head: RequestHead) -> CorsPolicy:
        """Return the CORS policy for `head`.

        Like Ollama, the gateway lets web pages on the client's own machine use models. They must
        send an API key and no cookie.
        """
        is_own_path = head.path.startswith((b"/ctllm/", b"/ws/"))
        if is_own_path or self._configured_origins.response_headers(head):
            return self._configured_origins
        if is_preflight(head):
            has_key = requests_api_key(head)
        else:
            has_cookie = get_header(head.headers, b"cookie") is not None
            has_key = not has_cookie and bool(presented_tokens(head))
        return self._local_origins if has_key else self._configured_origins

    def require_allowed_origin(self, head: RequestHead) -> None:
        """Raise Forbidden for the WebSocket of a page of another site.

        CORS does not apply to WebSockets: browsers open them for every page, and send its origin.
        """
        is_listed = bool(self._configured_origins.response_headers(head))
        if is_own_origin(head) or (is_listed and has_one_origin(head)):
            return
        raise Forbidden(
            "Web pages of this origin may not open WebSockets to this cloud. Its owner can add the "
            "origin to cloud.cors_origins."
        )
