"""Where this machine gets packages from, for builds that start from nothing; apt and pip are asked each time."""

from __future__ import annotations

import ast
import os
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tools.processes import start_process

_INDEX_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy")


def _ca_bundle() -> Path:
    found = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    return Path(found or "/etc/ssl/certs/ca-certificates.crt")


CA_BUNDLE = _ca_bundle()
"""The certificate authorities that this machine trusts."""


async def apt_settings() -> str:
    """How apt fetches on this machine, as a file of its configuration."""
    return await _output_of("apt-config", "dump", "Acquire")


async def pip_settings() -> tuple[str, list[str]]:
    """A pip.conf with the places that pip looks in on this machine, and the folders among them."""
    lines = (await _output_of(sys.executable, "-m", "pip", "config", "list")).splitlines()
    found = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # the environment wins
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2]
        if setting in _INDEX_SETTINGS:
            found[setting] = str(ast.literal_eval(value)).split()
    folders = {_folder(place) for values in found.values() for place in values if place.startswith(("file://", "/"))}
    listed = [f"{setting} =\n  " + "\n  ".join(places) for setting, places in found.items()]
    return "\n".join(["[global]", "timeout = 180", *listed, ""]), sorted(filter(os.path.isdir, folders))


def _folder(place: str) -> str:
    """The folder of a local index, which links to files next to itself."""
    path = urlsplit(place).path.rstrip("/")
    return path.removesuffix("/simple")


async def _output_of(*argv: str) -> str:
    async with start_process(*argv) as running:
        assert await running.wait_for_exit() == 0, running.output()
    return "\n".join(running.stdout)
