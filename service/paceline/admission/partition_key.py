"""The partition key of a request: which of its upstream's budgets it uses."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from paceline.admission.budget_table import DEFAULT_KEY
from paceline.model import Request

PartitionKeyFunction = Callable[[Request], str]


def partition_by(rule: str, base_path: str) -> PartitionKeyFunction:
    """Return the key function of a rule: `upstream`, `host`, `header:NAME` or `path:N`.

    `path:N` takes N segments after the base path. The value of a header may be a credential, so the key holds a short
    hash of it.
    """
    kind, _, detail = rule.partition(":")
    if kind == "host":
        return lambda request: f"host:{request.url.authority}"
    if kind == "header":
        return lambda request: f"header:{detail}:{_hash_header(request, detail)}"
    if kind == "path":
        depth, skip = int(detail), len(base_path)
        return lambda request: "path:" + _path_prefix(request.url.target[skip:], depth)
    return lambda request: DEFAULT_KEY


def _hash_header(request: Request, name: str) -> str:
    values = [value for key, value in request.headers if key == name]
    return sha256("\n".join(values).encode("utf-8", "surrogatepass")).hexdigest()[:12] if values else "none"


def _path_prefix(target: str, depth: int) -> str:
    segments = target.partition("?")[0].lstrip("/").split("/")
    return "/" + "/".join(segments[:depth])
