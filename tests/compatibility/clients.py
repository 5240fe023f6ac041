"""The clients, which are the columns of the table, and their driver programs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from json import loads
from pathlib import Path

DRIVERS = Path(__file__).parent / "drivers"


@dataclass(frozen=True)
class Client:
    """A client's package and driver. `make test` drives the light ones too."""

    package: str
    driver: str
    is_light: bool = True

    @property
    def uses_node(self) -> bool:
        return self.driver.endswith(".cjs")

    @property
    def title(self) -> str:
        return f"{self.package} ({'npm' if self.uses_node else 'Python'})"

    def version(self, modules: Path) -> str:
        """Return the installed version; `modules` is npm's folder. Raises if there is none."""
        if self.uses_node:
            return str(loads((modules / self.package / "package.json").read_text())["version"])
        return metadata.version(self.package)


CLIENTS = (
    Client("ollama", "ollama_python.py"),
    Client("ollama", "ollama_node.cjs"),
    Client("openai", "openai_python.py"),
    Client("openai", "openai_node.cjs"),
    Client("anthropic", "anthropic_python.py"),
    Client("langchain-ollama", "langchain_ollama_python.py"),
    Client("llm-ollama", "llm_ollama_python.py", is_light=False),
    Client("litellm", "litellm_python.py", is_light=False),
)
LIGHT = tuple(client for client in CLIENTS if client.is_light)
