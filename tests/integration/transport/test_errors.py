"""Every exception of the engines' libraries is one of ours; the libraries' own trees are walked to prove it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import aiohttp.client_exceptions
import aiohttp.http_exceptions
import httpcore2
import httpx2
import pytest

from paceline.errors import AttemptError, DnsFailed, ProtocolError, TlsFailed
from paceline.model import Exchange
from paceline.transport import aiohttp as aiohttp_engine
from paceline.transport import httpx as httpx_engine
from paceline.transport.base import TransportOptions
from paceline.transport.egress import EgressGuard
from support.request_factory import build_request


def exceptions_of(*modules: ModuleType) -> Iterator[type[Exception]]:
    """Every exception class a module names, and all that derive from it in the same library."""
    for module in modules:
        todo = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception)]
        library = module.__name__.partition(".")[0]
        while todo:
            kind = todo.pop()
            if kind.__module__.partition(".")[0] == library:
                yield kind
                todo.extend(kind.__subclasses__())


def blank(kind: type[Exception]) -> Exception:
    """An instance of it whatever its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, "as the library said")
    return error


AIOHTTP = sorted(set(exceptions_of(aiohttp.client_exceptions, aiohttp.http_exceptions)), key=repr)
HTTPX = sorted(set(exceptions_of(httpx2, httpcore2)), key=repr)
SYSTEM = [OSError, ConnectionResetError, BrokenPipeError, TimeoutError, ssl.SSLError, asyncio.TimeoutError]


def test_the_trees_are_the_whole_trees():
    assert aiohttp.ClientConnectorDNSError in AIOHTTP
    assert aiohttp.http_exceptions.LineTooLong in AIOHTTP
    assert len(AIOHTTP) > 25
    assert {httpx2.ReadError, httpcore2.ReadError, httpx2.InvalidURL} <= set(HTTPX)
    assert len(HTTPX) > 35


@pytest.mark.parametrize("kind", [*AIOHTTP, *SYSTEM], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("written", [None, 1.0])
def test_every_aiohttp_exception_is_mapped(kind, written, monkeypatch):
    monkeypatch.setattr(kind, "__str__", lambda self: "said", raising=False) if kind in AIOHTTP else None
    ours = aiohttp_engine.translate_error(blank(kind), Exchange(written_at=written))
    assert isinstance(ours, AttemptError)
    assert ours.sent == (written is not None)
    assert ours.message


@pytest.mark.parametrize("kind", [*HTTPX, *SYSTEM], ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
async def test_every_httpx_exception_is_mapped_when_a_transport_raises_it(kind):
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise blank(kind)

    transport = httpx_engine.HttpxTransport(TransportOptions(), EgressGuard(), httpx2.MockTransport(fail))
    with pytest.raises(AttemptError):
        await transport.send(build_request("http://api.example/"))


def test_what_no_library_raises_is_a_fault_of_ours_and_stays_one():
    for engine in (aiohttp_engine, httpx_engine):
        assert engine.translate_error(ZeroDivisionError(), Exchange()) is None


def test_the_kinds_that_decide_a_retry_are_told_apart():
    exchange = Exchange()
    kinds = aiohttp.client_exceptions
    for library, ours in (
        (kinds.ClientConnectorDNSError, DnsFailed),
        (kinds.ClientConnectorCertificateError, TlsFailed),
        (kinds.ServerDisconnectedError, ProtocolError),
    ):
        error = library.__new__(library)
        found = next(mapped for kind, mapped in aiohttp_engine.ERROR_MAP if isinstance(error, kind))
        assert found is ours
    assert exchange.written_at is None


@pytest.mark.parametrize(
    ("engine", "library", "other"), [("aiohttp", "aiohttp", "httpx2"), ("httpx", "httpx2", "aiohttp")]
)
def test_an_engine_imports_its_own_library_only_and_only_when_opened(engine, library, other):
    program = f"""
import asyncio, sys
from paceline.transport.engines import open_engine
from paceline.transport.egress import EgressGuard
from paceline.transport.base import TransportOptions
assert not {{"aiohttp", "httpx2"}} & set(sys.modules)
async def main():
    await open_engine("{engine}", TransportOptions(), EgressGuard()).close()
asyncio.run(main())
assert "{library}" in sys.modules and "{other}" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
