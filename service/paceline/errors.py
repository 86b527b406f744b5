"""Everything that can go wrong, as one tree. Each leaf is one code of the API's closed set.

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

from paceline.model import OutcomeKind


class PacelineError(Exception):
    """The root. `sent` is false only when it is certain that no byte reached the upstream."""

    code: ClassVar[str]
    outcome: ClassVar[OutcomeKind]

    def __init__(self, message: str, *, sent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.sent = sent
        self.retry_after_s = retry_after_s


class Rejected(PacelineError):
    outcome = OutcomeKind.REJECTED


class InvalidRequest(Rejected):
    code = "invalid_request"


class UnknownUpstream(Rejected):
    code = "unknown_upstream"


class ForbiddenUpstream(Rejected):
    code = "forbidden_upstream"


class EgressDenied(Rejected):
    code = "egress_denied"


class CircuitOpen(Rejected):
    """The upstream fails, and nobody but trials goes there; `retry_after_s` is the wait for the next."""

    code = "circuit_open"


class DeadlineUnreachable(Rejected):
    """Not even by a lower bound could it be served in time; `retry_after_s` is the wait it would have needed."""

    code = "deadline_unreachable"


class Overloaded(Rejected):
    code = "overloaded"


class Halted(Rejected):
    code = "halted"


class AttemptError(PacelineError):
    """An attempt that brought no answer; `sent` says whether the upstream may have acted on it."""


class ConnectFailed(AttemptError):
    code = "connect_failed"
    outcome = OutcomeKind.CONNECT_ERROR


class DnsFailed(AttemptError):
    code = "dns_failed"
    outcome = OutcomeKind.CONNECT_ERROR


class TlsFailed(AttemptError):
    code = "tls_failed"
    outcome = OutcomeKind.CONNECT_ERROR


class AttemptTimeout(AttemptError):
    code = "attempt_timeout"
    outcome = OutcomeKind.TIMEOUT


class ProtocolError(AttemptError):
    """The upstream broke off, sent what is not HTTP, or a coding we refuse; includes read and write errors."""

    code = "protocol_error"
    outcome = OutcomeKind.PROTOCOL_ERROR


class BodyTooLarge(AttemptError):
    """The decoded body passed `max_response`; reading stopped there."""

    code = "body_too_large"
    outcome = OutcomeKind.TOO_LARGE


class Expired(PacelineError):
    pass


class ItemTimeout(Expired):
    code = "item_timeout"
    outcome = OutcomeKind.TIMEOUT


class DeadlineExceeded(Expired):
    code = "deadline_exceeded"
    outcome = OutcomeKind.DEADLINE_EXCEEDED


class ConfigError(Exception):
    """A configuration that cannot be used. `str()` names file, key and fix, and so for each of `others`."""

    def __init__(self, file: str, key: str, problem: str, fix: str, others: Sequence[ConfigError] = ()) -> None:
        where = f"{file}: {key}" if key else file
        super().__init__("\n".join([f"{where}: {problem}\n  fix: {fix}", *map(str, others)]))
        self.file, self.key, self.problem, self.fix, self.others = file, key, problem, fix, tuple(others)
