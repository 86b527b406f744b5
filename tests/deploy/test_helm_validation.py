"""What Helm says of values that cannot work, in the chart's own words or the schema's."""

from __future__ import annotations

from typing import Any

import pytest

from tools.kubectl import rejection_message

pytestmark = pytest.mark.deploy


def _upstream(**settings: Any) -> dict[str, Any]:
    return {"config": {"upstreams": {"example": settings}}}


def _server(**settings: Any) -> dict[str, Any]:
    return {"config": {"server": settings}}


def _callers(*callers: dict[str, Any]) -> dict[str, Any]:
    return {"apiKeys": {"callers": list(callers)}}


_PLAIN = (
    'is a secret in plain text; put it into a Secret, name that in credentials, and write "${file:/etc/paceline/'
    'credentials/NAME/KEY}"'
)
_IN_URL = (
    "has a password in plain text; put its whole URL into a Secret, name that in credentials, and write "
    '"${file:/etc/paceline/credentials/NAME/KEY}"'
)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replicas": -1}, "replicas is -1; write 1 or more"),
    ({"replicas": 0}, "replicas is 0; write 1 or more"),
    ({"replicas": "two"}, "- at '/replicas': got string, want integer"),
    ({"replicas": 2, "shares": 2}, "shares is 2, and 2 replicas would exceed the limits together; write 3 or more"),
    ({"shares": 0}, "shares is 0, and 1 replicas would exceed the limits together; write 1 or more"),
    ({"replica": 2}, "- at '': additional properties 'replica' not allowed"),
    ({"config": None}, "config is empty; declare the APIs to call under config.upstreams"),
    ({"config": "x"}, "config is text; write it as a map under config: in a values file, not with --set-file"),
    ({"config": [1]}, "config is not a map; write sections such as upstreams: under it"),
    ({"config": {"upstream": {}}}, "- at '/config': additional properties 'upstream' not allowed"),
    (
        {"config": {"upstreams": None}},
        "config.upstreams is empty, and nothing could be called; declare at least one API",
    ),
    (
        {"config": {"upstreams": {"example": None}}},
        "config.upstreams is empty, and nothing could be called; declare at least one API",
    ),
    (
        {"config": {"upstreams": ["github"]}},
        "config.upstreams is not a map; write each API's name with its settings below it",
    ),
    (
        {"config": {"upstreams": {"github": "https://api.github.com"}}},
        "config.upstreams.github is not a map; write its settings below it, at least base_url",
    ),
    (_server(host="127.0.0.1"), "config.server.host cannot be given: it is always 0.0.0.0"),
    (_server(port=80), "config.server.port cannot be given: set port"),
    (_server(admin_port=80), "config.server.admin_port cannot be given: set adminPort"),
    (_server(drain="5s"), "config.server.drain cannot be given: set drainSeconds"),
    (_server(pre_stop="5s"), "config.server.pre_stop cannot be given: set partingSeconds"),
    (_server(api_keys=[]), "config.server.api_keys cannot be given: set apiKeys"),
    (_server(hosts=["a"]), "config.server.hosts cannot be given: probes and scrapes come by the pod's address"),
    (
        {"config": {"egress": {"mode": "public"}}},
        "config.egress.mode is public; on Kubernetes it is always declared, so remove it and declare what is to be "
        "called",
    ),
    (
        {"apiKeys": None},
        "apiKeys.secret is empty; name the existing Secret that holds each caller's key\n"
        "apiKeys.callers is empty, and the service never listens without keys; name at least one caller",
    ),
    ({"apiKeys": {"secret": ""}}, "apiKeys.secret is empty; name the existing Secret that holds each caller's key"),
    (_callers(), "apiKeys.callers is empty, and the service never listens without keys; name at least one caller"),
    (_callers({"name": "a"}, {"name": "a"}), "apiKeys.callers names a twice; give each caller its own name"),
    (
        _callers({"name": "a", "key": "0123456789abcdef"}),
        "apiKeys.callers: a has its key in the values; put it into the Secret under a",
    ),
    (_upstream(auth={"bearer": "t0ken"}), f"config.upstreams.example.auth.bearer {_PLAIN}"),
    (_upstream(auth={"basic": {"password": "x"}}), f"config.upstreams.example.auth.basic.password {_PLAIN}"),
    (_upstream(auth={"header": {"value": "x"}}), f"config.upstreams.example.auth.header.value {_PLAIN}"),
    (_upstream(proxy="http://user:word@proxy.example.com:3128"), f"config.upstreams.example.proxy {_IN_URL}"),
    (
        {"config": {"defaults": {"proxy": "http://user:word@proxy.example.com:3128"}}},
        f"config.defaults.proxy {_IN_URL}",
    ),
    (
        _upstream(auth={"bearer": "${env:TOKEN}"}),
        "config refers to ${env:...}, and the pods have no such variables; mount a Secret by credentials and write "
        '"${file:/etc/paceline/credentials/NAME/KEY}"',
    ),
    (
        _upstream(auth={"bearer": "${file:/etc/paceline/credentials/github/token}"}),
        "config refers to the Secret github, which is not mounted; add it to credentials",
    ),
    (
        _upstream(concurrency={"limit": 3}) | {"replicas": 3},
        "config.upstreams.example.concurrency.limit is 3 and cannot be divided into 4 shares; use fewer replicas, or "
        "a rate in its place",
    ),
    (
        {"config": {"defaults": {"concurrency": {"limit": 1}}}, "replicas": 2},
        "config.defaults.concurrency.limit is 1 and cannot be divided into 3 shares; use fewer replicas, or a rate in "
        "its place",
    ),
    (
        _upstream(base_url="https://api.example.com:8443/v1"),
        "config.upstreams.example is on port 8443, which the NetworkPolicy closes; add it to networkPolicy.publicPorts",
    ),
    (
        _upstream(allow_private=True),
        "config.upstreams.example is on a private address, which the NetworkPolicy closes; name it in "
        "networkPolicy.privateUpstreams",
    ),
    (
        {"networkPolicy": {"callers": []}},
        "networkPolicy.callers is empty, and nobody could call; name at least one peer",
    ),
    ({"drainSeconds": 0}, "drainSeconds is 0; write 1 or more, as work in flight needs time to end"),
    ({"drainSeconds": "25s"}, "- at '/drainSeconds': got string, want integer"),
    ({"preStopSeconds": -1}, "preStopSeconds is -1; write 0 or more"),
    ({"partingSeconds": -1}, "partingSeconds is -1; write 0 or more"),
    ({"port": 80}, "- at '/port': minimum: got 80, want 1,024"),
    ({"adminPort": 8080}, "adminPort is the same as port, 8080; choose another"),
    (
        {"credentials": ["A B"]},
        "- at '/credentials/0': 'A B' does not match pattern '^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$'",
    ),
    ({"logLevel": "loud"}, "- at '/logLevel': value must be one of 'debug', 'info', 'warning', 'error'"),
]


@pytest.mark.parametrize(("bad", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
def test_a_value_that_cannot_work_is_told_in_a_sentence(bad: dict[str, Any], sentence: str) -> None:
    assert rejection_message(bad) == sentence


def test_everything_that_is_wrong_is_told_at_once() -> None:
    wrong = {"replicas": 0, "apiKeys": {"callers": []}, "config": {"server": {"host": "::"}}}
    assert [line.split()[0] for line in rejection_message(wrong).splitlines()] == [
        "replicas",
        "apiKeys.callers",
        "config.server.host",
    ]
