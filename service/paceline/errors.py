"""The errors of items and of the configuration, as one tree. Each leaf is a code of `model/error_code.py`.

    PacelineError
    +-- Rejected                never sent: our own refusal
    |   +-- InvalidRequest      invalid_request
    |   +-- UnknownUpstream     unknown_upstream
    |   +-- ForbiddenUpstream   forbidden_upstream
    |   +-- EgressDenied        egress_denied
    |   +-- CircuitOpen         circuit_open
    |   +-- DeadlineUnreachable deadline_unreachable
    |   +-- Overloaded          overloaded
    |   +-- Halted              halted
    +-- AttemptError            tried, and no usable answer
    |   +-- ConnectFailed       connect_failed   (never sent)
    |   +-- DnsFailed           dns_failed       (never sent)
    |   +-- TlsFailed           tls_failed       (never sent)
    |   +-- AttemptTimeout      attempt_timeout
    |   +-- ProtocolError       protocol_error
    |   +-- BodyTooLarge        body_too_large
    +-- Expired                 the item's or the batch's time is over
    |   +-- ItemTimeout         item_timeout
    |   +-- DeadlineExceeded    deadline_exceeded
    +-- ConfigError             a configuration that cannot be used: file, key, fix

An upstream's status is never an error here: it is a `Response`. `asyncio.CancelledError` is not in the tree and
always travels on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paceline.model import ErrorCode


class PacelineError(Exception):
    """The root. `sent` is false only when it is certain that no byte reached the upstream."""

    code: ClassVar[ErrorCode]

    def __init__(self, message: str, *, sent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.sent = sent
        self.retry_after_s = retry_after_s


class Rejected(PacelineError):
    """Never sent: a refusal of the service itself."""


class InvalidRequest(Rejected):
    code = ErrorCode.INVALID_REQUEST


class UnknownUpstream(Rejected):
    code = ErrorCode.UNKNOWN_UPSTREAM


class ForbiddenUpstream(Rejected):
    code = ErrorCode.FORBIDDEN_UPSTREAM


class EgressDenied(Rejected):
    code = ErrorCode.EGRESS_DENIED


class CircuitOpen(Rejected):
    """The upstream fails and only trial requests are sent; `retry_after_s` is the wait for the next one."""

    code = ErrorCode.CIRCUIT_OPEN


class DeadlineUnreachable(Rejected):
    """Even a lower bound of the wait ends after the deadline; `retry_after_s` is the wait that is needed."""

    code = ErrorCode.DEADLINE_UNREACHABLE


class Overloaded(Rejected):
    code = ErrorCode.OVERLOADED


class Halted(Rejected):
    code = ErrorCode.HALTED


class AttemptError(PacelineError):
    """An attempt that brought no answer; `sent` says whether the upstream may have acted on it."""


class ConnectFailed(AttemptError):
    code = ErrorCode.CONNECT_FAILED


class DnsFailed(AttemptError):
    code = ErrorCode.DNS_FAILED


class TlsFailed(AttemptError):
    code = ErrorCode.TLS_FAILED


class AttemptTimeout(AttemptError):
    code = ErrorCode.ATTEMPT_TIMEOUT


class ProtocolError(AttemptError):
    """The upstream broke off, sent what is not HTTP, or a coding we refuse; includes read and write errors."""

    code = ErrorCode.PROTOCOL_ERROR


class BodyTooLarge(AttemptError):
    """The decoded body passed `max_response`; reading stopped there."""

    code = ErrorCode.BODY_TOO_LARGE


class Expired(PacelineError):
    """Ended by time."""


class ItemTimeout(Expired):
    code = ErrorCode.ITEM_TIMEOUT


class DeadlineExceeded(Expired):
    code = ErrorCode.DEADLINE_EXCEEDED


class ConfigError(Exception):
    """A configuration that cannot be used. `str()` names file, key and fix, and so for each of `others`."""

    def __init__(self, file: str, key: str, problem: str, fix: str, others: Sequence[ConfigError] = ()) -> None:
        where = f"{file}: {key}" if key else file
        super().__init__("\n".join([f"{where}: {problem}\n  fix: {fix}", *map(str, others)]))
        self.file, self.key, self.problem, self.fix, self.others = file, key, problem, fix, tuple(others)
