"""From a file to a `Config`, or to everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paceline.config.document import read_document, together
from paceline.config.keys import KeyPath, closest, look_up, write_path
from paceline.config.policy import Policy, Upstream
from paceline.config.references import Refusals, resolve
from paceline.config.server import Config
from paceline.config.unbuilt import take_unbuilt
from paceline.config.wording import problem_and_fix
from paceline.errors import ConfigError

_ONLY_OF_UPSTREAMS = Upstream.model_fields.keys() - Policy.model_fields.keys()
_TLS_FILES = ("ca_file", "cert_file", "key_file")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration a file holds. Pure but for reading it and the files it names, so it can be called again.

    Raises:
        ConfigError: it cannot be used; its text lists every problem with file, key and fix, and no value that
            came out of the environment or another file.
    """
    document = read_document(path)
    for section in [name for name, value in document.items() if value is None]:
        del document[section]  # a section whose keys are all commented out
    refused: Refusals = {key: (problem, "remove it") for key, problem in take_unbuilt(document)}
    document = resolve(document, environ, path.parent, refused)
    _anchor_files(document, path.parent, refused)
    refused.update({key: why for key, why in _broken_links(document) if key not in refused})
    try:
        config = Config.model_validate(_with_defaults(document))
    except ValidationError as error:
        for key, why in _refusals(error, document):
            refused.setdefault(key, why)
    if refused:
        raise together([ConfigError(str(path), write_path(key), *why) for key, why in refused.items()])
    return config


def _with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """The document with `defaults` under every upstream; an upstream's own word wins, mappings merge key by key."""
    defaults, upstreams = document.get("defaults"), document.get("upstreams")
    if not isinstance(defaults, dict) or not isinstance(upstreams, dict):
        return document
    shared = {key: value for key, value in defaults.items() if key in Policy.model_fields}
    merged = {name: _merge(shared, own) if isinstance(own, dict) else own for name, own in upstreams.items()}
    return document | {"upstreams": merged}


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = under | over
    for key in under.keys() & over.keys():
        below, above = under[key], over[key]
        # Not concurrency: its keys exclude each other, so the upstream's kind replaces the other one.
        if key != "concurrency" and isinstance(below, dict) and isinstance(above, dict):
            if key == "headers":
                below, above = ({str(name).lower(): v for name, v in part.items()} for part in (below, above))
            merged[key] = _merge(below, above)
    return merged


def _anchor_files(document: dict[str, Any], folder: Path, refused: Refusals) -> None:
    """Make the TLS files' paths start at the configuration's folder, and refuse those that are not there."""
    for policy in _policies(document):
        tls = look_up(document, (*policy, "tls"))
        for key in _TLS_FILES:
            at = (*policy, "tls", key)
            if not isinstance(tls, dict) or not isinstance(tls.get(key), str) or at in refused:
                continue
            tls[key] = str(folder / tls[key])
            if not Path(tls[key]).is_file():
                refused[at] = "names a file that does not exist", "correct the path; it starts at this file's folder"


def _policies(document: dict[str, Any]) -> Iterator[KeyPath]:
    yield ("defaults",)
    upstreams = document.get("upstreams")
    for name in upstreams if isinstance(upstreams, dict) else ():
        yield ("upstreams", name)


def _broken_links(document: dict[str, Any]) -> Iterator[tuple[KeyPath, tuple[str, str]]]:
    """Mentions of upstreams that are not declared."""
    upstreams = document.get("upstreams")
    names = list(upstreams) if isinstance(upstreams, dict) else []
    mentions: list[KeyPath] = [("compare", "target", "upstream")]
    api_keys = look_up(document, ("server", "api_keys"))
    for index in range(len(api_keys) if isinstance(api_keys, list) else 0):
        at: KeyPath = ("server", "api_keys", index, "upstreams")
        allowed = look_up(document, at)
        mentions += [(*at, place) for place in range(len(allowed) if isinstance(allowed, list) else 0)]
    for mention in mentions:
        name = look_up(document, mention)
        if isinstance(name, str) and name not in names:
            meant = closest(name, names)
            fix = f"write {meant}, or declare it" if meant else "declare it under upstreams"
            yield mention, ("names an upstream that is not declared", fix)


def _refusals(error: ValidationError, document: dict[str, Any]) -> Iterator[tuple[KeyPath, tuple[str, str]]]:
    """Each problem once: what an upstream only inherits is told of `defaults`."""
    found = error.errors(include_url=False, include_input=False)
    of_defaults = {(each["loc"][1:], each["msg"]) for each in found if each["loc"][:1] == ("defaults",)}
    for each in found:
        at = each["loc"]
        inherited = at[:1] == ("upstreams",) and (at[2:], each["msg"]) in of_defaults
        if inherited and look_up(document, at) is None:
            continue
        if each["type"] == "extra_forbidden" and at[:-1] == ("defaults",) and at[-1] in _ONLY_OF_UPSTREAMS:
            yield at, ("belongs to one upstream, not to defaults", "move it under upstreams")
            continue
        yield (at[:-1] if at[-1:] == ("[key]",) else at), problem_and_fix(each)
