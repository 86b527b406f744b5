"""The pause of one budget after a throttle, and the single probe that ends it.

* A throttle that names a wait pauses for it (at most `max_pause_s`). One that names none pauses 100 ms, doubling to
  20 s until a success. Throttles of sends written before the pause began prolong it but do not double it.
* After the pause one probe goes. Its response resumes or pauses again; without a response within 1 s the next goes.
* An item that is throttled again although others succeeded since has a limit of its own path: it pauses no other.

Pure: moments are arguments.
"""

from __future__ import annotations

from math import inf

from paceline.model import Receipt

_INITIAL_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 20.0
_PROBE_INTERVAL_S = 1.0


class ThrottlePause:
    __slots__ = (
        "_backoff_s",
        "_began_at",
        "_next_probe_at",
        "_success_written_at",
        "max_pause_s",
        "paused_until",
        "throttled_receipt",
    )

    def __init__(self, max_pause_s: float) -> None:
        self.max_pause_s = max_pause_s
        self.clear()

    def clear(self) -> None:
        """Forget every throttle."""
        self.paused_until = -inf
        self.throttled_receipt: Receipt | None = None
        """The throttled item's: another item is preferred for the probe. None while nothing is paused."""
        self._backoff_s = _INITIAL_BACKOFF_S
        self._began_at = -inf
        self._next_probe_at = -inf
        self._success_written_at = -inf

    def blocked_until(self, now: float) -> float:
        """Return when the next call may go: at or before `now` means now, `-inf` that nothing is paused."""
        if self.throttled_receipt is None:
            return -inf
        return max(self.paused_until, self._next_probe_at)

    def on_probe_sent(self, now: float) -> None:
        """Record that a probe was sent: no other for a second, unless it is answered."""
        self._next_probe_at = now + _PROBE_INTERVAL_S

    def on_success(self, written_at: float) -> None:
        self._success_written_at = max(self._success_written_at, written_at)
        if self.throttled_receipt is not None and written_at >= self._began_at:
            self.throttled_receipt = None
            self._backoff_s = _INITIAL_BACKOFF_S

    def on_inconclusive_probe(self, granted_at: float) -> None:
        """Record a probe that was neither throttled nor a success: the next may go."""
        if granted_at >= self._began_at:
            self._next_probe_at = -inf

    def is_item_specific(self, receipt: Receipt) -> bool:
        """Whether a throttle is of this item's path alone: it was throttled before, and others succeeded since."""
        return receipt.throttled_at is not None and self._success_written_at > receipt.throttled_at

    def on_item_specific_throttle(self) -> None:
        """Record a throttle that says nothing about the other items: the next probe may go."""
        self._next_probe_at = -inf

    def start_or_extend(self, receipt: Receipt, written_at: float, retry_after_s: float | None, now: float) -> float:
        """Record a throttle that is not item-specific. Returns how long the budget pauses for it."""
        is_new_pause = written_at >= self._began_at and now >= self.paused_until
        if retry_after_s:
            pause_s = min(retry_after_s, self.max_pause_s)
        elif is_new_pause:
            pause_s = self._backoff_s
            self._backoff_s = min(_MAX_BACKOFF_S, 2 * self._backoff_s)
        else:
            pause_s = 0.0
        if is_new_pause:
            self._began_at = now
        self.throttled_receipt = receipt
        self.paused_until = max(self.paused_until, now + pause_s)
        self._next_probe_at = -inf
        return self.paused_until - now
