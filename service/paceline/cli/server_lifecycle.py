"""`paceline serve`: the HTTP API, until a signal ends it.

SIGTERM or SIGINT starts the drain of `api/server/drain.py`; the process then exits with code 0. A second signal ends it
at once. SIGHUP reads the configuration again; an invalid file changes nothing.
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

from paceline.cli.usage_error import EXIT_USAGE_ERROR
from paceline.config import Config
from paceline.errors import ConfigError
from paceline.settings import (
    Settings,
    find_config_file,
    is_loopback,
    read_config,
    read_settings,
    require_api_keys_beyond_loopback,
)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_server(config: Path | None, host: str | None, port: int | None, insecure: bool) -> int:
    """Serve until a signal ends the process, and return the exit code.

    Port 0 takes any free port; the line `listening on http://HOST:PORT` says which.

    Each mistake in the configuration or the settings is one line: the last line of the log is what an operator sees
    first of a container that does not start.
    """
    try:
        settings = read_settings(config=config, host=host, port=port or None, insecure=insecure or None)
        loaded = _read_checked_config(settings)
    except ConfigError as error:
        print(str(error).replace("\n  fix: ", "; fix: "), file=sys.stderr)
        return EXIT_USAGE_ERROR
    bind_host = loaded.server.host
    try:
        listener = _bind_listener(bind_host, loaded.server.port if port is None else port)
        admin = None if loaded.server.admin_port is None else _bind_listener(bind_host, loaded.server.admin_port)
    except OSError as error:
        where = (
            f"{bind_host}:{loaded.server.port} (admin {loaded.server.admin_port})"
            if loaded.server.admin_port
            else f"{bind_host}:{loaded.server.port}"
        )
        print(f"cannot listen on {where}: {error.strerror}; choose another host or port", file=sys.stderr)
        return 1
    import uvloop  # dear to import, and not needed to say what is wrong with a configuration

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_until_signal(loaded, settings, listener, admin))
    return 0


async def _serve_until_signal(
    config: Config, settings: Settings, listener: socket.socket, admin: socket.socket | None
) -> None:
    from paceline.api.load_shedding import LoadShedder
    from paceline.api.middleware.trusted_host import TrustedHostMiddleware
    from paceline.api.server.admin import AdminApp, AdminServer
    from paceline.api.server.drain import begin_drain, drain
    from paceline.api.server.uvicorn_server import UvicornServer
    from paceline.app import Service, create_app
    from paceline.telemetry.logging import LoggingListener, configure_logging
    from paceline.telemetry.metrics import Metrics

    log = configure_logging(settings.log_level, settings.log_format)
    metrics, load_shedder = Metrics(), LoadShedder()
    listen_addresses = [each.getsockname()[:2] for each in (listener, admin) if each is not None]
    service = Service(config, [metrics.on_event, LoggingListener(log)], listen_addresses)
    service.preload_default_engine()
    loopback = is_loopback(config.server.host)
    stop_requested, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_started() -> None:
        if not stop_requested.is_set():  # the signal may have come first
            load_shedder.start_accepting()
        host, port = listen_addresses[0]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)

    def begin_shutdown() -> None:
        begin_drain(load_shedder, server)
        stop_requested.set()
        for each in _STOP_SIGNALS:  # the next one ends the process
            if os.getpid() == 1:  # the first of a container: the system would do nothing
                loop.add_signal_handler(each, os._exit, 128 + each)
            else:
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

    def reload_config() -> None:
        try:
            service.apply(_read_checked_config(settings))
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays", problem=str(error))
        else:
            log.info("configuration reloaded")

    _tune_garbage_collector()
    server = UvicornServer(create_app(service, load_shedder, metrics, loopback=loopback), on_started)
    for each in _STOP_SIGNALS:
        loop.add_signal_handler(each, begin_shutdown)
    loop.add_signal_handler(signal.SIGHUP, reload_config)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.close)
        if admin is not None:
            app = AdminApp(load_shedder, metrics.render, loop)
            checked_app = TrustedHostMiddleware(
                app, loopback=loopback, get_allowed_hosts=lambda: service.config.server.hosts
            )
            await stack.enter_async_context(AdminServer(checked_app, admin))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]))
            await stop_requested.wait()
            await drain(service, load_shedder, server, log)


def _tune_garbage_collector() -> None:
    """Let the garbage collector stop the event loop for less at a time.

    What is there by now stays, so it need not be looked at. Failed attempts leave their tracebacks as cycles: the young
    are looked at while they are few (500,000 of them stopped the loop for 150 ms), the old often enough that memory
    stays flat.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 10)


def _read_checked_config(settings: Settings) -> Config:
    """The configuration, as a process with these settings may serve it."""
    config = read_config(settings, os.environ)
    file = find_config_file(settings)
    require_api_keys_beyond_loopback(config, config.server.host, settings.insecure, *([str(file)] if file else []))
    return config


def _bind_listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
