"""The chart's Deployment and ConfigMap as a pod: podman runs it, the test asks its probes and calls it."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from support.containers import IMAGE, Image, memory_limit_of, mount_options, pid_of, proc_status
from support.kube_play import Document, Pod, play_pod
from tools.free_port import free_port
from tools.kubectl import parse_documents, render_chart
from tools.paceline_server import upstream_config
from tools.scripted_upstream import ScriptedUpstream
from tools.waiting import wait_until

pytestmark = pytest.mark.deploy
KEY = "a-key-of-the-test-0123456789"
SECRETS = {"paceline-api-keys": {"app": KEY}}
BATCH = {"requests": [{"upstream": "api", "path": "/x"}] * 50}


def rendered(upstream: ScriptedUpstream) -> list[Document]:
    """The chart with an upstream on this machine and with ports that are free; all else is its own."""
    port = int(upstream.url.rpartition(":")[2])
    values = {
        "port": free_port(),
        "adminPort": free_port(),
        "partingSeconds": 1,
        "config": {"upstreams": {"example": None, "api": upstream_config(upstream.url, concurrency={"limit": 5})}},
        "networkPolicy": {"privateUpstreams": [{"cidr": "127.0.0.1/32", "ports": [port]}]},
    }
    return [each for each in parse_documents(render_chart(values)) if each["kind"] in ("Deployment", "ConfigMap")]


async def _status(url: str) -> int | None:
    try:
        async with aiohttp.request("GET", url) as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return None


async def _call(pod: Pod, **options: Any) -> tuple[int, Any]:
    (port,) = [each["containerPort"] for each in pod.spec["ports"] if each["name"] == "http"]
    async with aiohttp.request("POST", f"http://127.0.0.1:{port}/v1/batch", json=BATCH, **options) as answer:
        return answer.status, await answer.json()


async def test_the_rendered_deployment_runs_and_takes_a_batch(image: Image, upstream: ScriptedUpstream) -> None:
    upstream.script_response(delay_s=0.02)
    async with play_pod(image, rendered(upstream), SECRETS) as pod:
        assert pod.spec["image"] == IMAGE

        async def ready() -> bool:
            return await _status(pod.probe("readinessProbe")) == 200

        await wait_until(ready, timeout_s=60, what="the pod is ready")
        assert await _status(pod.probe("startupProbe")) == 200
        assert await _status(pod.probe("livenessProbe")) == 200

        assert (await _call(pod))[0] == 401
        status, answer = await _call(pod, headers={"authorization": f"Bearer {KEY}"})
        assert (status, answer["summary"]["succeeded"]) == (200, 50)
        assert (len(upstream.requests), upstream.in_progress_max) == (50, 5)

        pid = await pid_of(image, pod.id)
        status = proc_status(pid)
        assert set(status["Uid"] + status["Gid"]) == {"10001"}
        assert (status["CapEff"], status["NoNewPrivs"]) == (["0" * 16], ["1"])
        assert f"{memory_limit_of(pid) // 2**20}Mi" == pod.spec["resources"]["limits"]["memory"]
        assert "ro" in mount_options(pid)["/"]

        await pod.stop()
        assert await pod.exit_codes() == [0]
    assert await _status(pod.probe("livenessProbe")) is None


def _misspelled(found: list[Document]) -> list[Document]:
    for each in found:
        if each["kind"] == "ConfigMap":
            each["data"]["paceline.yaml"] = each["data"]["paceline.yaml"].replace("base_url:", "base_ur:")
    return found


UNREADABLE = {
    "a mistake in the ConfigMap": (
        _misspelled,
        SECRETS,
        "upstreams.api.base_ur: is not a setting; did you mean base_url?; fix: write base_url, or remove it",
    ),
    "no key in the Secret": (
        lambda found: found,
        {"paceline-api-keys": {"another": KEY}},
        "server.api_keys[0].key: file /etc/paceline/keys/app: no such file or directory; fix: name a file that exists",
    ),
}


@pytest.mark.parametrize(("changed", "secrets", "message"), UNREADABLE.values(), ids=UNREADABLE)
async def test_a_configuration_that_the_pod_cannot_read_keeps_it_unready_and_is_told_last(
    image: Image, upstream: ScriptedUpstream, changed: Any, secrets: dict[str, dict[str, str]], message: str
) -> None:
    async with play_pod(image, changed(rendered(upstream)), secrets) as pod:

        async def tried_again() -> bool:
            return len(await pod.exit_codes()) >= 2

        await wait_until(tried_again, timeout_s=60, what="the container is started again")
        assert await _status(pod.probe("readinessProbe")) is None
        assert (await pod.logs())[-1].startswith(f"/etc/paceline/config/paceline.yaml: {message}")
        assert set(await pod.exit_codes()) == {2}
