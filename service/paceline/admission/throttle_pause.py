"""The throttle pause of one budget: how long nobody goes, and the one probe that ends it.

* a throttle that names a wait pauses for it (at most `max_pause_s`); one that names none pauses 100 ms, doubling to
  20 s until a success; throttles of sends written before the pause began prolong it but do not double it;
* when it is over one probe goes; its answer resumes or pauses again; unanswered for 1 s, the next goes;
* an item throttled again although others succeeded since has a limit of its own path: it pauses nobody.

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
        """Whose throttle it was: another is preferred for the probe. None while nothing is paused."""
        self._backoff_s = _INITIAL_BACKOFF_S
        self._began_at = -inf
        self._next_probe_at = -inf
        self._success_written_at = -inf

    def blocked_until(self, now: float) -> float:
        """When the next may go; at or before `now` means one may go now, `-inf` that nothing is paused."""
        if self.throttled_receipt is None:
            return -inf
        return max(self.paused_until, self._next_probe_at)

    def on_probe_sent(self, now: float) -> None:
        """Somebody went while the pause stood: nobody else for a second, unless it is answered."""
        self._next_probe_at = now + _PROBE_INTERVAL_S

    def on_success(self, written_at: float) -> None:
        self._success_written_at = max(self._success_written_at, written_at)
        if self.throttled_receipt is not None and written_at >= self._began_at:
            self.throttled_receipt = None
            self._backoff_s = _INITIAL_BACKOFF_S

    def on_inconclusive_probe(self, granted_at: float) -> None:
        """Neither throttled nor a success: a probe that says nothing; the next may go."""
        if granted_at >= self._began_at:
            self._next_probe_at = -inf

    def is_item_specific(self, receipt: Receipt, now: float) -> bool:
        """A throttle was met: whether it is the item's alone, which then pauses nobody."""
        previous_throttle_at, receipt.throttled_at = receipt.throttled_at, now
        if previous_throttle_at is not None and self._success_written_at > previous_throttle_at:
            self._next_probe_at = -inf
            return True
        return False

    def start_or_extend(self, receipt: Receipt, written_at: float, retry_after_s: float | None, now: float) -> float:
        """A throttle was met that is not the item's alone: how long the budget pauses for it."""
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
