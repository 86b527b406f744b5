"""`/docs` is Swagger UI from files served here: it works on a closed network, and no script but its own runs on it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin, urlsplit

from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream

KEY = "0123456789abcdef"


async def page_of(api: InProcessApi, **headers: str) -> tuple[str, dict[str, str]]:
    """The page, and the address of each file it names by the end of its name."""
    shown = await api.request("GET", "/docs", **headers)
    assert shown.status == 200
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    addresses = re.findall(r"""(?:href|src)="([^"]*)"|url: '([^']*)'""", shown.body)
    named = {urlsplit(address).path.rpartition(".")[2]: address for pair in addresses for address in pair if address}
    return shown.body, named


async def test_the_page_names_its_files_and_no_other_host(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        page, named = await page_of(api)
        assert set(named) == {"js", "css", "png", "json"}
        assert not re.search(r"//[\w.]", page.replace("<!--", ""))
        for kind, address in named.items():
            path = urljoin("/docs", address)
            assert path.startswith("/")
            async with api.http.get(path) as answer, api.http.head(path) as head:
                assert (answer.status, head.status) == (200, 200)
                assert head.headers["content-length"] == answer.headers["content-length"]
                content = await answer.read()
                if kind == "json":
                    assert b'"/v1/batch"' in content
                    continue
                assert content == files("fastapi_swagger.resources").joinpath(urlsplit(path).path[6:]).read_bytes()
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "max-age=31536000, immutable"
                assert urlsplit(path).query.startswith("v="), "what is kept for a year changes its address"
        for kind, media_type in {"js": "text/javascript", "css": "text/css", "png": "image/png"}.items():
            async with api.http.get(urljoin("/docs", named[kind])) as answer:
                assert answer.content_type == media_type


async def test_the_policy_allows_this_host_and_one_script_only(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        for method in ("GET", "HEAD"):
            answer = await api.request(method, "/docs")
            policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"
        page, _ = await page_of(api)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.pop("script-src") == f"'self' 'sha256-{digest}'"
    assert policy.pop("img-src") == "'self' data:"
    assert {name: policy.pop(name) for name in ("style-src", "connect-src")} == dict.fromkeys(
        ("style-src", "connect-src"), "'self'"
    )
    assert policy == dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    assert '"validatorUrl": null' in page, "it would send the document's address to another host"


async def test_nothing_else_of_the_package_is_served(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        for path in ("/docs/", "/docs/__init__.py", "/docs/..%2fmain.py", "/docs/../main.py", "/docs/x/y"):
            answer = await api.request("GET", path)
            assert (answer.status, answer.body["code"]) == (404, "not_found"), path
        refused = await api.request("POST", "/docs/swagger-ui.css")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_the_page_needs_no_key_and_says_how_calls_take_theirs(upstream: ScriptedUpstream):
    config: dict[str, Any] = one_upstream_config(upstream.url) | {"server": {"api_keys": [{"name": "a", "key": KEY}]}}
    async with start_api(config) as api:
        _, named = await page_of(api)
        for address in named.values():
            async with api.http.get(urljoin("/docs", address)) as answer:
                assert answer.status == 200
        document = (await api.request("GET", "/openapi.json")).body
        assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
        assert (await api.request("GET", "/v1/strategies")).status == 401
        assert (await api.request("GET", "/v1/strategies", paceline_key=KEY)).status == 200
