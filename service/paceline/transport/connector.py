"""Open a connection to a URL's origin: check, connect, open a tunnel, handshake. Shared by the engines.

Only addresses that `EgressGuard.resolve` returned are connected to. SNI and the certificate check use the URL's own
name, whatever the address. Every failure here comes before the request: `sent` is false.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

from paceline.errors import ConnectFailed, TlsFailed
from paceline.model import Url
from paceline.transport.base import TransportOptions
from paceline.transport.egress import EgressGuard
from paceline.transport.url import parse_url
from paceline.units import format_seconds

_MAX_PROXY_HEAD_BYTES = 16 * 1024

P = TypeVar("P", bound=asyncio.Protocol)


class _Proxy(NamedTuple):
    url: Url
    authorization: str | None


class Connector:
    """Opens connections for one upstream.

    Raises:
        InvalidRequest: `options.proxy` is no URL of a proxy.
        OSError: a file of the TLS options cannot be read (ssl.SSLError: or is not valid).
    """

    def __init__(self, options: TransportOptions, guard: EgressGuard) -> None:
        self._options = options
        self._guard = guard
        self._proxy = _parse_proxy(options.proxy) if options.proxy else None
        # Reading the system's certificates takes 20 ms: only at the first https connection, unless files are named.
        self._tls = _tls_context(options) if options.ca_file or options.cert_file else None

    def request_target(self, url: Url) -> str:
        """The request target: the whole URL for a plain request through a proxy."""
        return str(url) if self._proxy is not None and url.scheme == "http" else url.target

    def proxy_authorization(self, url: Url) -> str | None:
        """The Proxy-Authorization a plain request through a proxy needs."""
        return self._proxy.authorization if self._proxy is not None and url.scheme == "http" else None

    async def connect(self, url: Url, factory: Callable[[], P]) -> tuple[asyncio.Transport, P, socket.socket]:
        """A connection ready for requests to `url`'s origin, its protocol, and the socket beneath.

        Raises:
            EgressDenied, DnsFailed: as `EgressGuard.resolve`.
            ConnectFailed: refused, unreachable, refused by the proxy, or not within `connect_timeout_s`.
            TlsFailed: the handshake failed or the certificate is not the host's.
        """
        next_hop = url if self._proxy is None else self._proxy.url
        if self._proxy is not None:  # the proxy resolves names; check what needs no lookup
            self._guard.check_host(url.host, url.port, self._options)
        resolve_options = (
            self._options
            if self._proxy is None
            else TransportOptions(allow_private=True, dns_timeout_s=self._options.dns_timeout_s)
        )
        addresses = await self._guard.resolve(next_hop.host, next_hop.port, resolve_options)
        connect_deadline = time.perf_counter() + self._options.connect_timeout_s
        sock = await _connect_any(addresses, next_hop, connect_deadline)
        try:
            async with asyncio.timeout(connect_deadline - time.perf_counter()):
                if self._proxy is not None and url.scheme == "https":
                    await _open_tunnel(sock, url, self._proxy)
                transport, protocol = await self._start_protocol(sock, url, factory)
        except ssl.SSLError as error:
            sock.close()
            raise TlsFailed(f"{url.authority}: {getattr(error, 'verify_message', None) or error}") from error
        except TimeoutError as error:
            sock.close()
            raise ConnectFailed(_connect_timeout_message(next_hop, self._options.connect_timeout_s)) from error
        except OSError as error:
            sock.close()
            kind = TlsFailed if url.scheme == "https" else ConnectFailed
            raise kind(f"{url.authority}: the connection broke off in its handshake ({error})") from error
        except BaseException:
            sock.close()
            raise
        return transport, protocol, sock

    async def _start_protocol(
        self, sock: socket.socket, url: Url, factory: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        loop = asyncio.get_running_loop()
        if url.scheme == "http":
            return await loop.create_connection(factory, sock=sock)
        if self._tls is None:
            self._tls = _tls_context(self._options)
        return await loop.create_connection(factory, sock=sock, ssl=self._tls, server_hostname=url.host)


async def _connect_any(addresses: list[str], next_hop: Url, connect_deadline: float) -> socket.socket:
    """Connect to the first address that answers; a silent one gets half of the remaining time."""
    error: Exception | None = None
    for addresses_left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        remaining_s = connect_deadline - time.perf_counter()
        if remaining_s <= 0:
            break
        try:
            return await _connect_address(
                address, next_hop.port, remaining_s if addresses_left == 1 else remaining_s / 2
            )
        except OSError as failed:  # TimeoutError is one
            error = failed
    if isinstance(error, OSError) and error.errno is not None:
        raise ConnectFailed(f"{next_hop.authority}: {os.strerror(error.errno).lower()}") from error
    raise ConnectFailed(f"{next_hop.authority}: no connection in time") from error


async def _connect_address(address: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        if sock.getsockname()[:2] == sock.getpeername()[:2]:
            # A local port of the ephemeral range without a listener can connect to itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tunnel(sock: socket.socket, url: Url, proxy: _Proxy) -> None:
    """Ask the proxy for a tunnel to `url`'s origin; afterwards the socket is the origin's."""
    loop = asyncio.get_running_loop()
    host = f"[{url.host}]" if ":" in url.host else url.host
    connect_request = f"CONNECT {host}:{url.port} HTTP/1.1\r\nHost: {host}:{url.port}\r\n"
    if proxy.authorization is not None:
        connect_request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    await loop.sock_sendall(sock, f"{connect_request}\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await loop.sock_recv(sock, 4096)
        head += chunk
        if not chunk or len(head) > _MAX_PROXY_HEAD_BYTES:
            raise ConnectFailed(f"the proxy {proxy.url.authority} did not answer CONNECT with HTTP")
    status = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
        shown = b" ".join(status)[:80].decode("latin-1")
        raise ConnectFailed(f"the proxy {proxy.url.authority} refused the tunnel to {url.authority}: {shown}")
    if not head.endswith(b"\r\n\r\n"):  # the client begins TLS: earlier bytes belong to no response
        raise ConnectFailed(f"the proxy {proxy.url.authority} sent bytes into the tunnel before it was used")


def _tls_context(options: TransportOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if options.cert_file:
        context.load_cert_chain(options.cert_file, options.key_file)
    return context


def _parse_proxy(text: str) -> _Proxy:
    scheme, slashes, rest = text.partition("://")
    credentials, at, address = rest.rpartition("@")
    url = parse_url(f"http{slashes}{address}") if scheme.lower() == "http" else parse_url(f"{scheme}-proxy{slashes}")
    if not at:
        return _Proxy(url, None)
    token = base64.b64encode(unquote(credentials).encode()).decode("ascii")
    return _Proxy(url, f"Basic {token}")


def _connect_timeout_message(next_hop: Url, timeout_s: float) -> str:
    return f"{next_hop.authority}: no usable connection within {format_seconds(timeout_s)}"
