"""The file that a command reads its items from."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from paceline.cli.usage_error import UsageError

STDIN_FD = 0

_BLOCK_BYTES = 1 << 20


def open_input(path: str) -> int:
    """Open a file, or the standard input for `-`, and return its descriptor.

    Raises:
        UsageError: it cannot be read.
    """
    if path == "-":
        return STDIN_FD
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return fd


def close_input(fd: int) -> None:
    """Close what `open_input` opened; the standard input stays open."""
    if fd != STDIN_FD:
        os.close(fd)


def is_same_file(path: str, fd: int) -> bool:
    """Return whether `fd` has `path` open: a run would then read its own results."""
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(fd))
    except OSError:
        return False


def count_lines(fd: int) -> int | None:
    """Count the lines of a plain file from its position on, without moving it; None for a pipe or a terminal."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return None
    offset, lines, last_byte = os.lseek(fd, 0, os.SEEK_CUR), 0, b"\n"
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        lines += block.count(b"\n")
        offset, last_byte = offset + len(block), block[-1:]
    return lines + (last_byte != b"\n")
