"""A port that no process listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of loopback that no process listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
