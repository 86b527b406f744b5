"""Ending a connection by a TCP reset."""

from __future__ import annotations

import asyncio
import socket
import struct


def reset_when_closed(sock: socket.socket) -> None:
    """Let the socket's close send RST rather than FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_connection(transport: asyncio.WriteTransport) -> None:
    """Abort a connection, by RST rather than FIN."""
    reset_when_closed(transport.get_extra_info("socket"))
    transport.abort()
