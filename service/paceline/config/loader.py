"""Load a file into a `Config`, or report everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paceline.config.error_messages import closest_match, describe_error
from paceline.config.interpolation import Problems, interpolate
from paceline.config.key_path import KeyPath, format_path, get_at_path
from paceline.config.policy import PolicyConfig
from paceline.config.root import Config
from paceline.config.unbuilt import remove_unbuilt
from paceline.config.upstream import UpstreamConfig
from paceline.config.yaml_loader import combine_errors, load_yaml
from paceline.errors import ConfigError

_UPSTREAM_ONLY_KEYS = UpstreamConfig.model_fields.keys() - PolicyConfig.model_fields.keys()
_TLS_FILES = ("ca_file", "cert_file", "key_file")


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration of a file. Pure but for reading it and the files it names, so it can be called again.

    Raises:
        ConfigError: it cannot be used; the text lists every problem with file, key and fix, and no value from the
            environment or another file.
    """
    document = load_yaml(path)
    for section in [name for name, value in document.items() if value is None]:
        del document[section]  # a section whose keys are all commented out
    problems: Problems = {key: (problem, "remove it") for key, problem in remove_unbuilt(document)}
    document = interpolate(document, environ, path.parent, problems)
    _resolve_tls_paths(document, path.parent, problems)
    problems.update({key: why for key, why in _undeclared_upstreams(document) if key not in problems})
    try:
        config = Config.model_validate(_apply_defaults(document))
    except ValidationError as error:
        for key, why in _validation_problems(error, document):
            problems.setdefault(key, why)
    if problems:
        raise combine_errors([ConfigError(str(path), format_path(key), *why) for key, why in problems.items()])
    return config


def _apply_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """The document with `defaults` under every upstream; the upstream's own value wins, mappings merge key by key."""
    defaults, upstreams = document.get("defaults"), document.get("upstreams")
    if not isinstance(defaults, dict) or not isinstance(upstreams, dict):
        return document
    shared = {key: value for key, value in defaults.items() if key in PolicyConfig.model_fields}
    merged = {
        name: _merge(shared, upstream) if isinstance(upstream, dict) else upstream
        for name, upstream in upstreams.items()
    }
    return document | {"upstreams": merged}


def _merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    merged = base | override
    for key in base.keys() & override.keys():
        base_value, override_value = base[key], override[key]
        # Not concurrency: its keys exclude each other, so the upstream's kind replaces the other one.
        if key != "concurrency" and isinstance(base_value, dict) and isinstance(override_value, dict):
            if key == "headers":
                base_value, override_value = (
                    {str(name).lower(): v for name, v in part.items()} for part in (base_value, override_value)
                )
            merged[key] = _merge(base_value, override_value)
    return merged


def _resolve_tls_paths(document: dict[str, Any], folder: Path, problems: Problems) -> None:
    """Resolve the TLS files' paths from the configuration's folder, and report those that do not exist."""
    for policy in _policy_paths(document):
        tls = get_at_path(document, (*policy, "tls"))
        for key in _TLS_FILES:
            path = (*policy, "tls", key)
            if not isinstance(tls, dict) or not isinstance(tls.get(key), str) or path in problems:
                continue
            tls[key] = str(folder / tls[key])
            if not Path(tls[key]).is_file():
                problems[path] = "names a file that does not exist", "correct the path; it starts at this file's folder"


def _policy_paths(document: dict[str, Any]) -> Iterator[KeyPath]:
    yield ("defaults",)
    upstreams = document.get("upstreams")
    for name in upstreams if isinstance(upstreams, dict) else ():
        yield ("upstreams", name)


def _undeclared_upstreams(document: dict[str, Any]) -> Iterator[tuple[KeyPath, tuple[str, str]]]:
    """References to upstreams that are not declared."""
    upstreams = document.get("upstreams")
    names = list(upstreams) if isinstance(upstreams, dict) else []
    references: list[KeyPath] = [("compare", "target", "upstream")]
    api_keys = get_at_path(document, ("server", "api_keys"))
    for index in range(len(api_keys) if isinstance(api_keys, list) else 0):
        path: KeyPath = ("server", "api_keys", index, "upstreams")
        allowed = get_at_path(document, path)
        references += [(*path, position) for position in range(len(allowed) if isinstance(allowed, list) else 0)]
    for reference in references:
        name = get_at_path(document, reference)
        if isinstance(name, str) and name not in names:
            suggestion = closest_match(name, names)
            fix = f"write {suggestion}, or declare it" if suggestion else "declare it under upstreams"
            yield reference, ("names an upstream that is not declared", fix)


def _validation_problems(error: ValidationError, document: dict[str, Any]) -> Iterator[tuple[KeyPath, tuple[str, str]]]:
    """Each problem once: what an upstream only inherits is reported for `defaults`."""
    found = error.errors(include_url=False, include_input=False)
    in_defaults = {(each["loc"][1:], each["msg"]) for each in found if each["loc"][:1] == ("defaults",)}
    for each in found:
        path = each["loc"]
        inherited = path[:1] == ("upstreams",) and (path[2:], each["msg"]) in in_defaults
        if inherited and get_at_path(document, path) is None:
            continue
        if each["type"] == "extra_forbidden" and path[:-1] == ("defaults",) and path[-1] in _UPSTREAM_ONLY_KEYS:
            yield path, ("belongs to one upstream, not to defaults", "move it under upstreams")
            continue
        yield (path[:-1] if path[-1:] == ("[key]",) else path), describe_error(each)
