"""Pods of Kubernetes manifests, run by podman as far as it goes.

async with play_pod(image, documents, {"SECRET": {"KEY": "value"}}) as pod:
    ...
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from support.containers import Image

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The first pod of a Deployment; `id` is its only container's."""

    image: Image
    deployment: Document
    id: str

    @property
    def spec(self) -> Document:
        return dict(self.deployment["spec"]["template"]["spec"]["containers"][0])

    def probe(self, name: str) -> str:
        """The URL that a kubelet on this machine would ask."""
        asked = self.spec[name]["httpGet"]
        (port,) = [each["containerPort"] for each in self.spec["ports"] if each["name"] == asked["port"]]
        return f"http://127.0.0.1:{port}{asked['path']}"

    async def logs(self) -> list[str]:
        return (await self.image.podman("logs", self.id, both=True)).splitlines()

    async def stop(self) -> None:
        """End it as Kubernetes does: SIGTERM, and SIGKILL when its grace period is over."""
        grace_s = self.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        await self.image.podman("stop", "--time", str(grace_s), self.id)

    async def exit_codes(self) -> list[int]:
        """How its container ended, each time it did."""
        asked = ("events", "--stream=false", "--format={{.ContainerExitCode}}", "--filter=event=died")
        return [int(code) for code in (await self.image.podman(*asked, f"--filter=container={self.id}")).split()]


@asynccontextmanager
async def play_pod(
    image: Image, documents: Sequence[Document], secrets: Mapping[str, Mapping[str, str]]
) -> AsyncIterator[Pod]:
    """`podman kube play` on this machine's own network, and at the end `kube down`, which kills."""
    (deployment,) = [each for each in documents if each["kind"] == "Deployment"]
    configuration = [each for each in documents if each["kind"] == "ConfigMap"]
    for name, values in secrets.items():
        # In place of a Secret's document, of which podman would mount the base64.
        await image.podman("secret", "create", name, "-", stdin=yaml.safe_dump({"data": dict(values)}).encode())
    file = image.folder / "pod.yaml"
    file.write_text(yaml.safe_dump_all([*configuration, _for_podman(deployment)]))
    try:
        await image.podman("kube", "play", "--network", "host", str(file))
        try:
            pod = f"{deployment['metadata']['name']}-pod-0"
            (spec,) = deployment["spec"]["template"]["spec"]["containers"]
            container = await image.inspected("container", f"{pod}-{spec['name']}")
            yield Pod(image, deployment, container["Id"])
        finally:
            await image.podman("kube", "down", str(file))
    finally:
        await image.podman("volume", "rm", "--all", "--force")
        for name in secrets:
            await image.podman("secret", "rm", name)


def _for_podman(deployment: Document) -> Document:
    """What podman 4.3 can take; all else is played as it is.

    It would publish a container's ports, which a host's network refuses, and it crashes where a Secret's volume does
    not say whether it may be missing.
    """
    taken = copy.deepcopy(deployment)
    spec = taken["spec"]["template"]["spec"]
    for container in spec["containers"]:
        del container["ports"]
    for volume in _secret_volumes(spec):
        volume.setdefault("optional", False)
    return taken


def _secret_volumes(spec: Document) -> Iterator[Document]:
    return (volume["secret"] for volume in spec["volumes"] if "secret" in volume)
