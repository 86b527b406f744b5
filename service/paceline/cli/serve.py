"""`paceline serve`: the HTTP API, until a signal ends it.

SIGTERM or SIGINT drains: unready at once; for `server.pre_stop` whatever still comes is taken; then nothing new is, and
what is in flight has `server.drain` to finish; the rest gets its outcomes, every answer is delivered, exit code 0. A
second signal ends the process where it stands.
SIGHUP reads the configuration again; a file that cannot be used changes nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from paceline.config import Config
from paceline.errors import ConfigError
from paceline.settings import Settings, check_listen, config_file, is_loopback, read_config, read_settings

_ENDING = (signal.SIGTERM, signal.SIGINT)


def serve(config: Path | None, host: str | None, port: int | None, insecure: bool) -> int:
    """Serve until told to end; the exit code.

    Port 0 takes any free port; the line `listening on http://HOST:PORT` says which.

    A configuration or settings that cannot be served are told in a line for each mistake: the last line of a log is
    what is seen first of a container that does not start.
    """
    try:
        settings = read_settings(config=config, host=host, port=port or None, insecure=insecure or None)
        read = _read(settings)
    except ConfigError as error:
        print(str(error).replace("\n  fix: ", "; fix: "), file=sys.stderr)
        return 2
    bound = read.server.host
    try:
        listener = _listen(bound, read.server.port if port is None else port)
        admin = None if read.server.admin_port is None else _listen(bound, read.server.admin_port)
    except OSError as error:
        where = (
            f"{bound}:{read.server.port} (admin {read.server.admin_port})"
            if read.server.admin_port
            else f"{bound}:{read.server.port}"
        )
        print(f"cannot listen on {where}: {error.strerror}; choose another host or port", file=sys.stderr)
        return 1
    import uvloop  # dear to import, and not needed to say what is wrong with a configuration

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(read, settings, listener, admin))
    return 0


async def _serve(config: Config, settings: Settings, listener: socket.socket, admin: socket.socket | None) -> None:
    from paceline.api.admin import AdminApp, AdminServer
    from paceline.api.hosts import HostCheck
    from paceline.api.intake import Intake
    from paceline.api.server import LAST_WORDS_S, Server
    from paceline.app import Service, create_app
    from paceline.telemetry.logging import BatchLog, configure
    from paceline.telemetry.metrics import Metrics

    log = configure(settings.log_level, settings.log_format)
    metrics, intake = Metrics(), Intake()
    own = [each.getsockname()[:2] for each in (listener, admin) if each is not None]
    service = Service(config, [metrics.listen, BatchLog(log)], own)
    service.warm()
    loopback = is_loopback(config.server.host)
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def started() -> None:
        if not told.is_set():  # the signal may have come first
            intake.open()
        host, port = own[0]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)

    def end() -> None:
        intake.leave()
        server.part()
        told.set()
        for each in _ENDING:  # the next one ends the process
            if os.getpid() == 1:  # the first of a container: the system would do nothing
                loop.add_signal_handler(each, os._exit, 128 + each)
            else:
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

    def reload() -> None:
        try:
            service.apply(_read(settings))
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays", problem=str(error))
        else:
            log.info("configuration reloaded")

    _rarely_collect()
    server = Server(create_app(service, intake, metrics, loopback=loopback), started)
    for each in _ENDING:
        loop.add_signal_handler(each, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.close)
        if admin is not None:
            app = AdminApp(intake, metrics.render, loop)
            names = HostCheck(app, loopback=loopback, names=lambda: service.config.server.hosts)
            await stack.enter_async_context(AdminServer(names, admin))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]))
            await told.wait()
            pre_stop_s = service.config.server.pre_stop
            if pre_stop_s > 0:
                log.info("unready, still taking what comes", pre_stop_s=pre_stop_s)
                await asyncio.sleep(pre_stop_s)
            intake.close()
            log.info("draining", batches=service.runner.active, items=intake.items)
            if not await intake.emptied(service.config.server.drain):
                service.runner.stop()
                await intake.emptied(LAST_WORDS_S)
            server.should_exit = True


def _rarely_collect() -> None:
    """Let the garbage collector stop the event loop for less at a time.

    What is there by now stays, so it need not be looked at. Failed attempts leave their tracebacks as cycles: the young
    are looked at while they are few (500,000 of them stopped the loop for 150 ms), the old often enough that memory
    stays flat.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 10)


def _read(settings: Settings) -> Config:
    """The configuration, as a process with these settings may serve it."""
    config = read_config(settings, os.environ)
    file = config_file(settings)
    check_listen(config, config.server.host, settings.insecure, *([str(file)] if file else []))
    return config


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
