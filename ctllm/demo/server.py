"""The demo server: Ollama's API with a model that echoes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ctllm.demo.http_site import HandlerFactory, Site
from ctllm.demo.model_store import ModelStore
from ctllm.demo.request_handler import RequestHandler, ServerSettings
from ctllm.reactor.interfaces import Clock

DEMO_MODEL = "demo:echo"


class DemoServer:
    """A server with Ollama's API and no language model. Listen with `site`.

    `clock` measures durations, `now` returns the seconds since the epoch, `models` are the names of
    its models, `word_interval` is the pause between two words in seconds, `guard_host` refuses a
    foreign Host or Origin. The server stores nothing of its requests.
    """

    def __init__(
        self,
        clock: Clock,
        models: Iterable[str] = (DEMO_MODEL,),
        word_interval: float = 0.03,
        guard_host: bool = True,
        *,
        now: Callable[[], float] = time.time,
        make_handler: HandlerFactory = RequestHandler,
    ) -> None:
        self._initial_names = tuple(models)
        self.settings = ServerSettings(
            clock=clock,
            now=now,
            models=ModelStore(self._initial_names, now()),
            word_interval=word_interval,
            guard_host=guard_host,
        )
        self.site = Site(self.settings, make_handler)

    @property
    def models(self) -> list[str]:
        """The names of its models, with tags."""
        return list(self.settings.models.models)

    def reset(self) -> None:
        """Restore the initial models. Requests in progress continue."""
        self.settings.models = ModelStore(self._initial_names, self.settings.now())
