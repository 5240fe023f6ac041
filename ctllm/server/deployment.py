"""The files of a server's folder as this version of ctllm delivers them.

Their source is `containers/` of the repository. A wheel has a copy in `ctllm/server/deployment`,
which setup.py makes; an editable install reads the repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import ctllm
from ctllm.errors import BadConfiguration

#: The template of `.env`.
ENV_TEMPLATE = "env.example"
#: The files that are delivered as they are.
FILE_NAMES = ("compose.yaml", "ctllm.toml")


@dataclass(frozen=True, slots=True)
class Deployment:
    """The delivered files by name, and the template of `.env`."""

    version: str
    files: Mapping[str, bytes]
    env_template: str


def load_deployment() -> Deployment:
    """Read the files; raises BadConfiguration if this installation has none."""
    packaged = files("ctllm.server").joinpath("deployment")
    checkout = Path(ctllm.__file__).parent.parent / "containers"
    source = packaged if packaged.is_dir() else checkout
    try:
        return Deployment(
            ctllm.__version__,
            {name: source.joinpath(name).read_bytes() for name in FILE_NAMES},
            source.joinpath(ENV_TEMPLATE).read_text("utf-8"),
        )
    except OSError as error:
        raise BadConfiguration(
            f"This installation of ctllm is without the files of a server: {error}. Install ctllm "
            "from its wheel or its repository."
        ) from error
