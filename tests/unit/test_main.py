"""Tests of `ctllm.__main__`: what a desktop does not use is not imported."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.unit.test_proxy_main import imported

#: Creates the services of a desktop and does not start them.
CREATE_DESKTOP = """
import tempfile
from ctllm.tap import Options, installed_reactor, makeService
installed_reactor()
options = Options({})
state = f"--state-dir={tempfile.mkdtemp()}"
options.parseOptions(["--config", "/dev/null", "desktop", "--desktop-listen=off", state])
makeService(options)
"""

#: Runs `python -m ctllm desktop`, which exits because a file is missing.
RUN_MAIN = """
import runpy, sys
sys.argv = ["ctllm", "desktop", "--config=/nowhere"]
try:
    runpy.run_module("ctllm", run_name="__main__")
except SystemExit:
    pass
"""

INSTALL = """
from ctllm.lazy_imports import (
    LAZY_IN_DESKTOPS, LAZY_MODULES, UNUSED_MODULES, install, unused_hash_modules,
)
install((*UNUSED_MODULES, *unused_hash_modules()), {**LAZY_MODULES, **LAZY_IN_DESKTOPS})
"""

#: Kilobytes of memory that each module takes (Python 3.11, Twisted 26.10, autobahn 26.10).
HEAVY = {
    "OpenSSL": 1000,
    "_hashlib": 3500,  # with the OpenSSL of the system
    "ast": 450,
    "cryptography": 8500,  # with its own OpenSSL
    "service_identity": 250,
    "asyncio.base_events": 1000,
    "autobahn.wamp.message": 2000,  # with cbor2
    "autobahn.wamp.websocket": 200,
    "click": 900,
    "cryptography.hazmat.primitives.serialization.ssh": 350,
    "ctllm.cloud": 2000,
    "ctllm.demo": 700,
    "ctllm.proxy": 500,
    "difflib": 150,
    "email.utils": 600,  # with calendar and locale
    "html.entities": 450,
    "http.client": 2400,  # with email
    "jwt": 1000,
    "keyring": 1500,
    "pickle": 250,
    "plistlib": 150,
    "prometheus_client": 1200,
    "segno": 300,
    "treq": 1500,
    "twisted.persisted.sob": 450,
    "twisted.web": 1500,
    "urllib.request": 300,
    "webbrowser": 100,
    "zipfile": 250,
}


class MainTests(SynchronousTestCase):
    """Each test runs a new interpreter."""

    def test_a_desktop_imports_no_expensive_module(self) -> None:
        found = imported(INSTALL + CREATE_DESKTOP)
        self.assertIn("ctllm.desktop.service", found)
        self.assertEqual({name: kb for name, kb in HEAVY.items() if name in found}, {})

    def test_the_program_installs_the_lazy_imports_before_anything_else(self) -> None:
        found = imported(RUN_MAIN)
        self.assertIn("ctllm.tap", found)
        self.assertEqual({name: kb for name, kb in HEAVY.items() if name in found}, {})

    def test_help_names_the_command(self) -> None:
        """`python -m ctllm` has its own parent of these options, which twistd is otherwise."""
        for role in ("", "desktop "):
            argv = [sys.executable, "-m", "ctllm", *role.split(), "--help"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            expected = f"Usage: python -m ctllm [options] {role}".rstrip()
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.startswith(expected), done.stdout)
