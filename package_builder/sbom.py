"""The list of components (CycloneDX): of the desktop's virtual environment and of the page."""

from __future__ import annotations

import base64
import json
import sys
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from package_builder.release import Release


def write_sbom(release: Release, site_packages: Path, target: Path, work: Path) -> None:
    """Write the list. `site_packages` has ctllm and its dependencies."""
    work.mkdir()
    environment = work / "environment"
    venv.create(environment, symlinks=True)
    (folder,) = environment.glob("lib/python3*/site-packages")
    (folder / "ctllm.pth").write_text(f"{site_packages}\n")
    listed = work / "environment.json"
    scan = Path(sys.executable).with_name("cyclonedx-py")
    options = ("--output-reproducible", f"--output-file={listed}")
    release.run(scan, "environment", *options, environment)
    bom = json.loads(listed.read_text())
    name_subject(bom)
    lock = json.loads((release.source / "web" / "package-lock.json").read_text())
    add_page(bom, lock)
    text = json.dumps(bom, indent=1, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the list of components is not valid: {error}")
    target.write_text(text)


def name_subject(bom: dict[str, Any]) -> None:
    """Make the component ctllm what the list is about. It keeps its dependencies."""
    (subject,) = [each for each in bom["components"] if each["name"] == "ctllm"]
    bom["components"].remove(subject)
    # How it was installed for the scan says nothing of the packages.
    for key in ("externalReferences", "properties"):
        subject.pop(key, None)
    bom["metadata"]["component"] = {**subject, "type": "application"}


def add_page(bom: dict[str, Any], lock: Mapping[str, Any]) -> None:
    """Add the libraries that are built into the page, from npm's package-lock.json."""
    components = list(_page_components(lock))
    bom["components"] += components
    root = bom["metadata"]["component"]["bom-ref"]
    (dependencies,) = [each for each in bom["dependencies"] if each["ref"] == root]
    references = [each["bom-ref"] for each in components]
    dependencies["dependsOn"] = sorted([*dependencies.get("dependsOn", ()), *references])
    bom["dependencies"] += [{"ref": each} for each in references]


def _page_components(lock: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, package in lock["packages"].items():
        if path and not package.keys() & {"dev", "optional", "peer"}:
            name, version = path.removeprefix("node_modules/"), package["version"]
            address = f"pkg:npm/{name.replace('@', '%40')}@{version}"
            yield {
                "type": "library",
                "bom-ref": address,
                "name": name,
                "version": version,
                "purl": address,
                "licenses": [{"license": {"id": package["license"]}}],
                "hashes": [_hash(package["integrity"])],
            }


def _hash(integrity: str) -> dict[str, str]:
    """Return a hash of npm ("sha512-" and base64) as CycloneDX writes it."""
    algorithm, _, value = integrity.partition("-")
    return {"alg": f"SHA-{algorithm[3:]}", "content": base64.b64decode(value).hex()}
