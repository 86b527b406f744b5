"""Paceline's own values: what is asked, what is sent, what comes back, and the one outcome of each item.

Values are frozen and slotted (msgspec structs: a tenth of a dataclass's cost to make). Two small objects are mutable on
purpose and each has one owner: a `Receipt` adds up where one item's time goes, an `Exchange` records when one attempt
was written and answered. None of them can be part of a cycle, so the garbage collector skips them (`gc=False`): a
thousand items in flight would make it stop the event loop for a tenth of a second. Moments are `time.perf_counter()`
seconds; durations end in `_s` or `_ms`. Imports nothing of Paceline. Start with `item.py`.
"""

from paceline.model.enums import (
    EngineName,
    Expect,
    OutcomeKind,
    Priority,
    Strategy,
    Verdict,
    WaitReason,
)
from paceline.model.error_code import ErrorCode
from paceline.model.item import (
    Batch,
    Defaults,
    Duration,
    Item,
    ItemRetry,
    Tenant,
)
from paceline.model.outcome import (
    Failure,
    Outcome,
    Summary,
    Timing,
)
from paceline.model.request import (
    ONE_REQUEST,
    Amounts,
    Cost,
    Exchange,
    Headers,
    Rate,
    Receipt,
    Request,
    Response,
    RetryPolicy,
    Send,
    Url,
)
from paceline.model.retried_statuses import TRANSIENT_STATUSES

__all__ = [
    "ONE_REQUEST",
    "TRANSIENT_STATUSES",
    "Amounts",
    "Batch",
    "Cost",
    "Defaults",
    "Duration",
    "EngineName",
    "ErrorCode",
    "Exchange",
    "Expect",
    "Failure",
    "Headers",
    "Item",
    "ItemRetry",
    "Outcome",
    "OutcomeKind",
    "Priority",
    "Rate",
    "Receipt",
    "Request",
    "Response",
    "RetryPolicy",
    "Send",
    "Strategy",
    "Summary",
    "Tenant",
    "Timing",
    "Url",
    "Verdict",
    "WaitReason",
]
