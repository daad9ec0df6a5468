"""The versions that image and demo install: all pinned with hashes, and none with an advisory."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
#: The first versions without the advisories that are known: setup.cfg must ask for these at least.
FIXED = {
    "aiohttp": "3.14.3",  # CVE-2026-54273 to -54280, CVE-2026-69244
    "cryptography": "50",  # CVE-2026-26007, CVE-2026-69247
    "marshmallow": "4.1.2",  # CVE-2025-68480
    "orjson": "3.11.6",  # CVE-2025-67221
    "pyjwt": "2.12",  # CVE-2026-32597
    "python-engineio": "4.13.3",  # CVE-2026-48802, CVE-2026-48809
    "python-socketio": "5.16.2",  # CVE-2026-48804
}


def asked() -> dict[str, Requirement]:
    """Return what setup.cfg asks for: client and host, the server, the image and the browser."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    text = "\n".join(
        (setup["options"]["install_requires"], *map(extras.get, ("server", "web", "image")))
    )
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("vpt[")]
    return {one.name: one for one in found}


def pinned() -> dict[str, tuple[Version, int]]:
    """Return the version and the number of hashes of each package in the files."""
    found = {}
    for name in ("constraints.txt", "constraints-web.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for block in re.split(r"(?m)^(?=[a-z])", text)[1:]:
            package, version = re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", block)[0]
            found[package] = (
                Version(version),
                len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)),
            )
    return found


def test_every_package_is_pinned_with_its_hashes() -> None:
    pins = pinned()
    assert min(count for _, count in pins.values()) >= 1
    for name, requirement in asked().items():
        assert requirement.specifier.contains(pins[name][0]), name


def test_no_version_with_an_advisory_is_accepted() -> None:
    for name, version in FIXED.items():
        floors = [Version(one.version) for one in asked()[name].specifier if one.operator == ">="]
        assert floors >= [Version(version)], name
        assert pinned()[name][0] >= Version(version), name


def test_the_pins_name_no_place() -> None:
    for name in ("constraints.txt", "constraints-web.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"://|@ |^-|/tmp|index-url|find-links", text, re.MULTILINE), name


def test_the_demo_installs_what_is_pinned() -> None:
    demo = (ROOT / "script" / "demo").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\s*(install\w*) (.*)$", demo) == [
        ("install_pinned", "constraints.txt constraints-web.txt"),
        ("install_pinned", "constraints.txt"),
    ]
