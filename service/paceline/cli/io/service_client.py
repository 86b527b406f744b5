"""Requests to a running service over httpx2. A response is read as it arrives.

Imported only where `--server` is given: httpx2 takes longer to import than most commands take to run.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import httpx2
import msgspec
from msgspec import Struct

from paceline import __version__
from paceline.cli.usage_error import UsageError

_CONNECT_TIMEOUT_S = 5.0


class ServiceUnreachable(Exception):
    """No connection to the service: it has received nothing of the request."""


class ConnectionLost(Exception):
    """The response ended early; the service may have acted on the request."""


class ServiceErrorResponse(UsageError):
    """The service rejected the request; the message is its own reason."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(f"the service answered {status}: {detail}")
        self.status, self.field = status, field


class _Problem(Struct):
    detail: str = ""
    field: str | None = None


class ServiceResponse:
    """A response whose head has arrived."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    async def iter_lines(self) -> AsyncGenerator[bytes]:
        """Yield the lines of the body as they arrive, without their ends.

        httpx2's own `aiter_lines` splits at every line end that Unicode knows, some of which JSON allows in a string.

        Raises:
            ConnectionLost: the body ended early.
        """
        partial = bytearray()
        with _transport_errors():
            async with aclosing(self._response.aiter_raw()) as chunks:
                async for chunk in chunks:
                    *ended, rest = chunk.split(b"\n")
                    for line in ended:
                        yield bytes(partial + line)
                        partial.clear()
                    partial += rest
        if partial:
            yield bytes(partial)

    async def read_body(self) -> bytes:
        """Read the whole body.

        Raises:
            ConnectionLost: the body ended early.
        """
        with _transport_errors():
            return await self._response.aread()

    async def read_error(self) -> ServiceErrorResponse:
        """Read why the service rejected the request, in its own words.

        Raises:
            ConnectionLost: the body ended early.
        """
        body = await self.read_body()
        try:
            problem = msgspec.json.decode(body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = _Problem()
        return ServiceErrorResponse(self.status, problem.detail or "it gives no reason; is it Paceline?", problem.field)


class ServiceClient:
    """A running service, by its base URL.

    Each request opens a connection: a batch is not safe to send twice, so it never travels on an idle
    connection that the service may be closing.
    """

    def __init__(self, server: str, key: str | None) -> None:
        headers = {
            "user-agent": f"paceline/{__version__}",
            "content-type": "application/json",
            "accept-encoding": "identity",
            "connection": "close",
        }
        if key is not None:
            headers["paceline-key"] = key
        try:
            parts = urlsplit(server)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in server:
                raise ValueError(server)
            parts.port  # noqa: B018 - raises where it is above 65535
            self._client = httpx2.AsyncClient(
                base_url=server,
                headers=headers,
                # No timeout for reads: a batch may stay silent as long as its deadline, and the service ends it then.
                timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
                verify=ssl.create_default_context(),
                trust_env=False,
            )
        except (ValueError, httpx2.InvalidURL):
            raise UsageError(
                f"--server: {server!r} is not a service's address; write it as http://127.0.0.1:8080"
            ) from None
        self.address = f"{parts.scheme}://{parts.netloc}"

    async def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request and return the body of its response.

        Raises:
            UsageError: the service cannot be reached, closes the connection early, or rejects the request.
        """
        try:
            async with self.stream(method, path, body) as response:
                if response.status != 200:
                    raise await response.read_error()
                return await response.read_body()
        except (ServiceUnreachable, ConnectionLost) as error:
            raise UsageError(str(error)) from None

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: bytes = b"", accept: str = "application/json"
    ) -> AsyncIterator[ServiceResponse]:
        """Send a request and give its response; leaving the block closes the connection, which cancels a running batch.

        Raises:
            ServiceUnreachable, ConnectionLost: no response.
        """
        request = self._client.build_request(method, path, content=body, headers={"accept": accept})
        try:
            with _transport_errors():
                response = await self._client.send(request, stream=True)
        except ServiceUnreachable as error:
            raise ServiceUnreachable(f"{self.address} cannot be reached: {error}") from None
        try:
            yield ServiceResponse(response)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


@contextmanager
def _transport_errors() -> Iterator[None]:
    """Raise httpx2's transport errors as `ServiceUnreachable` or `ConnectionLost`."""
    try:
        yield
    except httpx2.ConnectTimeout:
        raise ServiceUnreachable(f"no answer within {_CONNECT_TIMEOUT_S:g} s") from None
    except httpx2.ConnectError as error:
        raise ServiceUnreachable(_system_reason(error)) from None
    except httpx2.NetworkError as error:
        raise ConnectionLost(f"the connection to the service broke off: {_system_reason(error)}") from None
    except httpx2.TransportError as error:
        raise ConnectionLost(f"the service's answer is cut short or is no HTTP: {error}") from None


def _system_reason(error: Exception) -> str:
    """The operating system's words: httpx2, httpcore2 and anyio each raise an error of their own in its place."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ExceptionGroup):  # one error for each address of the host
            cause = cause.exceptions[-1]
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return str(error)
