"""Units that one budget has spent, by unit: the baseline that advertised limits are compared with."""

from __future__ import annotations

from paceline.model import Amounts

_MAX_UNITS = 64
_ROUNDING_TOLERANCE = 1e-6
"""Sums of fractions leave a rounding error."""


class UsageCounters:
    """Units written, and units granted but not yet written.

    Callers name units freely: above 64 of them, those that no header advertises and no request holds are dropped.
    """

    __slots__ = ("_prune_above", "advertised_units", "in_flight", "unwritten", "written")

    def __init__(self) -> None:
        self.advertised_units: frozenset[str] = frozenset()
        """Units that rate headers advertise."""
        self._prune_above = _MAX_UNITS
        self.written: dict[str, float] = {}
        self.unwritten: dict[str, float] = {}
        self.in_flight: dict[str, float] = {}

    def on_grant(self, amounts: Amounts) -> None:
        unwritten = self.unwritten
        for unit, amount in amounts:
            unwritten[unit] = unwritten.get(unit, 0.0) + amount
        if len(unwritten) > self._prune_above:
            self._prune()

    def on_written(self, amounts: Amounts) -> None:
        written, in_flight = self.written, self.in_flight
        for unit, amount in amounts:
            self.unwritten[unit] = self.unwritten.get(unit, 0.0) - amount
            written[unit] = written.get(unit, 0.0) + amount
            in_flight[unit] = in_flight.get(unit, 0.0) + amount

    def on_settled(self, amounts: Amounts, was_written: bool) -> None:
        """Count the end of a grant."""
        amounts_by_unit = self.in_flight if was_written else self.unwritten
        for unit, amount in amounts:
            amounts_by_unit[unit] = amounts_by_unit.get(unit, 0.0) - amount

    def copy(self) -> UsageCounters:
        """A copy for a simulation."""
        clone = UsageCounters()
        clone.advertised_units, clone._prune_above = self.advertised_units, self._prune_above
        clone.written, clone.unwritten, clone.in_flight = dict(self.written), dict(self.unwritten), dict(self.in_flight)
        return clone

    def _prune(self) -> None:
        in_flight = self.in_flight
        for unit in [
            unit for unit, amount in self.unwritten.items() if amount + in_flight.get(unit, 0.0) < _ROUNDING_TOLERANCE
        ]:
            if unit not in self.advertised_units:
                for amounts_by_unit in (self.unwritten, self.in_flight, self.written):
                    amounts_by_unit.pop(unit, None)
        self._prune_above = max(_MAX_UNITS, 2 * len(self.unwritten))
