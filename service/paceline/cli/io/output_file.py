"""The file that a run writes its outcomes to, and how a run resumes from it."""

from __future__ import annotations

import fcntl
import os
import stat

import msgspec
from msgspec import Struct

from paceline.cli.io.id_set import IdSet
from paceline.cli.usage_error import UsageError
from paceline.model import OutcomeKind

_STDOUT = 1


class _WrittenOutcome(Struct):
    id: str
    outcome: OutcomeKind


class OutputFile:
    """An open descriptor that takes whole lines."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.can_resume = stat.S_ISREG(os.fstat(fd).st_mode) and fd != _STDOUT
        self.is_terminal = os.isatty(fd)

    def write(self, content: bytes) -> None:
        """All of it, however slowly the other side takes it; call it off the event loop.

        Raises:
            OSError: it cannot be written; a BrokenPipeError says that its reader is gone.
        """
        left = memoryview(content)
        while left:
            left = left[os.write(self._fd, left) :]

    def close(self) -> None:
        if self._fd != _STDOUT:
            os.close(self._fd)


def open_output(path: str | None, *, resume: bool) -> tuple[OutputFile, IdSet | None]:
    """Where outcomes go, and the ids that have succeeded there already if this run resumes an earlier one.

    A line that was cut off at the end is dropped. The file is locked against a second run.

    Raises:
        UsageError: the file cannot be written, holds something and `resume` was not asked for, or is no result of a
            run.
    """
    if path is None or path == "-":
        if resume:
            raise UsageError("--resume: needs the file of the earlier run; name it with -o")
        return OutputFile(_STDOUT, "the standard output"), None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        completed_ids = _prepare_resume(fd, path, resume) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        if resume and completed_ids is None:
            raise UsageError(f"--resume: {path} is not a plain file, so there is nothing to resume")
    except BaseException:
        os.close(fd)
        raise
    return OutputFile(fd, path), completed_ids if resume else None


def _prepare_resume(fd: int, path: str, resume: bool) -> IdSet:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{path} is being written by another run; wait for it, or name another file") from None
    completed_ids = IdSet()
    if os.fstat(fd).st_size == 0:
        return completed_ids
    if not resume:
        raise UsageError(f"{path} holds something already; add --resume to go on with it, or name another file")
    complete_bytes = 0
    decode = msgspec.json.Decoder(_WrittenOutcome).decode
    invalid_line = None
    with open(fd, "rb", closefd=False) as lines:
        for number, text in enumerate(lines, 1):
            if invalid_line is not None:
                raise UsageError(f"--resume: line {invalid_line} of {path} is no outcome of a run; name another file")
            try:
                line = decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                invalid_line = number  # allowed at the very end only
                continue
            complete_bytes += len(text)
            if line.outcome is OutcomeKind.SUCCESS:
                completed_ids.add(line.id)
    if invalid_line is not None and not complete_bytes:
        raise UsageError(f"--resume: {path} holds no outcome of a run; name another file")
    if invalid_line is not None:
        os.ftruncate(fd, complete_bytes)
    elif not text.endswith(b"\n"):
        os.write(fd, b"\n")  # whole but for the end of its line
    return completed_ids
