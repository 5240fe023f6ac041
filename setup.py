"""The two folders with packages, which setup.cfg cannot name; all else is in setup.cfg.

An editable install puts both on the path with a .pth file. The import hook that setuptools uses
instead for more than one folder hides the twistd plugin, because Twisted looks for
`twisted/plugins` in the folders of `sys.path`.
"""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import _StaticPth, editable_wheel

ROOT = Path(__file__).parent
#: What `ctllm server init` writes; ctllm/server/deployment.py reads it.
DEPLOYMENT = ("compose.yaml", "ctllm.toml", "env.example")
FOLDERS = (ROOT, ROOT / "tray")


class BuildPy(build_py):
    """Copy the files of a server into the package, unless it is installed as editable."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "ctllm" / "server" / "deployment"
        self.mkpath(str(target))
        for name in DEPLOYMENT:
            self.copy_file(str(ROOT / "containers" / name), str(target / name))


class EditableWheel(editable_wheel):
    """Make an editable install of .pth files alone."""

    def _select_strategy(self, name: str, tag: str, build_lib: object) -> _StaticPth:
        return _StaticPth(self.distribution, name, list(FOLDERS))


setup(
    packages=[
        *find_namespace_packages(include=["ctllm", "ctllm.*", "twisted.plugins"]),
        *find_packages("tray"),
    ],
    package_dir={"": ".", "ctllm_tray": "tray/ctllm_tray"},
    cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel},
)
