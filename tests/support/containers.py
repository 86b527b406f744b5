"""The image of deploy/Dockerfile, built and run by Debian's buildah and podman where no container engine runs.

async with built_image() as image:
    async with start_container(image, config, folder) as container:
        status, answer = await container.server.post("/v1/batch", {...})

The base image is built from Debian's packages and named as the one in the Dockerfile. Everything lies in a folder that
is gone afterwards. It takes root.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from paceline import __version__
from support.package_index import CA_BUNDLE, apt_settings, pip_settings
from tools.paceline_server import PacelineServer, wait_until_ready
from tools.processes import LISTENING_PATTERN, ChildProcess, start_process

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IMAGE = f"paceline:{__version__}"
CONFIG = "/etc/paceline/paceline.yaml"
_PACKAGES = "mmdebstrap podman buildah runc catatonit"
_BUILD_CA = "/etc/ssl/certs/ca-certificates.crt"
_BUILD_WITHIN_S = 400.0
# What podman would take for granted: higher limits than a machine may give, crun, systemd.
_SETTINGS = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
helper_binaries_dir = ["/usr/libexec/podman", "/usr/lib/podman"]
events_logger = "file"
lock_type = "file"
"""
# As slim images are: no documentation, and no bytecode of the standard library.
_SLIM = (
    "--variant=essential",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")),
    '--customize-hook=find "$1/usr/lib/python3.11" -name "*.pyc" -delete',
    '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"',
)
_RUN = (
    *("--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "host"),
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """The built image, in a separate storage in `folder`, with the image it was built from."""

    folder: Path
    base: str
    mounted: tuple[str, ...]
    """What the build saw of this machine, by its place there."""

    @property
    def env(self) -> dict[str, str]:
        # Without systemd nothing runs a pod's probes.
        return {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "DISABLE_HC_SYSTEMD": "true"}

    def argv(self, program: str, *arguments: str) -> tuple[str, ...]:
        """A command of podman or buildah on this storage."""
        storage = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        tmp = ("--tmpdir", str(self.folder / "tmp")) if program == "podman" else ()
        return (_require_program(program), *storage, *tmp, *arguments)

    async def podman(self, *arguments: str, stdin: bytes = b"", both: bool = False) -> str:
        """Run podman to its end, which must be a success; gives its output, or its output and its errors."""
        ran = await _run_to_success(*self.argv("podman", *arguments), stdin=stdin, env=self.env)
        return ran.output() if both else "\n".join(ran.stdout)

    async def inspected(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = json.loads(await self.podman(kind, "inspect", name))
        return dict(found)

    async def paths(self, name: str) -> set[str]:
        """The path of every file and folder in an image."""
        root = await self.podman("image", "mount", name)
        try:
            found = ((at, each) for at, folders, files in os.walk(root) for each in [*folders, *files])
            return {os.path.join(at, each).removeprefix(root) for at, each in found}
        finally:
            await self.podman("image", "unmount", name)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container: `server` is the service in it, its child the podman that waits for it."""

    name: str
    image: Image
    server: PacelineServer

    async def pid(self) -> int:
        """Its first process, as this machine sees it."""
        return await pid_of(self.image, self.name)

    async def podman(self, command: str, *arguments: str) -> str:
        """Run a podman command on it: the options come first."""
        return await self.image.podman(command, *arguments, self.name)


@asynccontextmanager
async def built_image() -> AsyncIterator[Image]:
    """Build it; at the end nothing is left of it and of what ran from it."""
    assert os.geteuid() == 0, "root builds and runs the image"
    (base,) = set(re.findall(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text()))
    folder = Path(tempfile.mkdtemp(prefix="paceline-"))
    pip, folders = await pip_settings()
    mounts = {str(CA_BUNDLE): _BUILD_CA, str(folder / "pip.conf"): "/etc/pip.conf", **{each: each for each in folders}}
    image = Image(folder, base, tuple(mounts.values()))
    try:
        (folder / "containers.conf").write_text(_SETTINGS)
        (folder / "pip.conf").write_text(pip)
        await _bootstrap(image)
        await _build(image, mounts)
        try:
            yield image
        finally:
            await image.podman("pod", "rm", "--all", "--force", "--time", "0")
            await image.podman("rm", "--all", "--force", "--time", "0")
    finally:
        _remove_everything(folder)


def _remove_everything(folder: Path) -> None:
    shutil.rmtree(folder)
    for parent in Path("/sys/fs/cgroup").glob("**/libpod_parent"):
        for group in (*parent.glob("*/"), parent):
            with suppress(OSError):  # it may hold containers of other runs
                group.rmdir()


async def _bootstrap(image: Image) -> None:
    archive = image.folder / "base.tar"
    wanted = "python3,python3-venv,ca-certificates"
    acquire = image.folder / "apt.conf"
    acquire.write_text(await apt_settings())
    command = (_require_program("mmdebstrap"), "--quiet", *_SLIM, f"--aptopt={acquire}", f"--include={wanted}")
    await _run_to_success(*command, "bookworm", str(archive), within_s=_BUILD_WITHIN_S)
    await image.podman("import", "--quiet", str(archive), image.base)
    archive.unlink()


async def _build(image: Image, mounts: dict[str, str]) -> None:
    command = ("bud", "--format", "docker", "--isolation", "chroot", "--pull-never", "--quiet")
    volumes = (f"--volume={source}:{target}:ro" for source, target in mounts.items())
    source = ("--tag", IMAGE, "--file", str(DOCKERFILE), str(ROOT))
    await _run_to_success(*image.argv("buildah", *command, *volumes, *source), within_s=_BUILD_WITHIN_S, env=image.env)


@asynccontextmanager
async def start_container(
    image: Image, config: dict[str, Any], folder: Path, *options: str
) -> AsyncIterator[Container]:
    """Serve a configuration from a container with `options` of `podman run`; it must exit with 0 on SIGTERM."""
    write_config(config, folder)
    async with run_container(image, folder, *options) as (name, running):
        base_url = (await running.wait_for_output(LISTENING_PATTERN))[1].replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession(base_url, cookie_jar=aiohttp.DummyCookieJar()) as http:
            await wait_until_ready(http, running)
            yield Container(name, image, PacelineServer(base_url, running, http))
        if running.process.returncode is None:
            await image.podman("stop", "--time", "60", name)
        assert await running.wait_for_exit() == 0, running.output()
        assert "Traceback" not in running.output(), running.output()


@asynccontextmanager
async def run_container(
    image: Image, folder: Path | None, *options: str, arguments: Sequence[str] = ()
) -> AsyncIterator[tuple[str, ChildProcess]]:
    """Run the image, its configuration in `folder`; gives the container's name and what waits for it."""
    name = f"paceline-{secrets.token_hex(4)}"
    mount = () if folder is None else ("--volume", f"{folder}:{Path(CONFIG).parent}:ro")
    command = (*_RUN, "--name", name, *mount, *options, IMAGE, *arguments)
    async with start_process(*image.argv("podman", *command), env=image.env) as running:
        yield name, running


def write_config(config: dict[str, Any], folder: Path) -> Path:
    """The configuration's file in `folder`, both for everybody to read."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    file = folder / Path(CONFIG).name
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o644)
    return file


async def pid_of(image: Image, name: str) -> int:
    return int((await image.inspected("container", name))["State"]["Pid"])


def proc_status(pid: int) -> dict[str, list[str]]:
    """The lines of `/proc/PID/status`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def mount_options(pid: int) -> dict[str, list[str]]:
    """The options of each mount point that it sees."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {words[4]: words[5].split(",") for words in lines}


def memory_limit_of(pid: int) -> int:
    """The limit of its cgroup, in bytes, of either version."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
        if not controllers and (limit := Path(f"/sys/fs/cgroup{path}/memory.max")).exists():
            return int(limit.read_text())
    raise AssertionError(f"no cgroup of {pid} limits memory")


async def _run_to_success(
    *argv: str, within_s: float | None = None, stdin: bytes = b"", env: dict[str, str] | None = None
) -> ChildProcess:
    async with start_process(*argv, stdin=stdin, env=env) as running:
        code = await running.wait_for_exit(timeout_s=within_s)
    assert code == 0, f"{' '.join(argv)}: exit code {code}\n{running.output()}"
    return running


def _require_program(program: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is missing: apt-get install {_PACKAGES}"
    return found
