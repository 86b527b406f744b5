"""What one budget spent so far, by unit: what is told of its limits is reckoned against it."""

from __future__ import annotations

from paceline.model import Amounts

_MOST_UNITS = 64
_NOTHING = 1e-6
"""Sums of fractions leave crumbs."""


class Spending:
    """Written, and granted but not yet written.

    Callers name units as they like: of more than 64, those that are not told of and that nobody holds are forgotten.
    """

    __slots__ = ("_forget_above", "in_flight", "told", "unwritten", "written")

    def __init__(self) -> None:
        self.told: frozenset[str] = frozenset()
        """Units that rate headers tell of."""
        self._forget_above = _MOST_UNITS
        self.written: dict[str, float] = {}
        self.unwritten: dict[str, float] = {}
        self.in_flight: dict[str, float] = {}

    def granted(self, amounts: Amounts) -> None:
        unwritten = self.unwritten
        for unit, amount in amounts:
            unwritten[unit] = unwritten.get(unit, 0.0) + amount
        if len(unwritten) > self._forget_above:
            self._forget()

    def wrote(self, amounts: Amounts) -> None:
        written, in_flight = self.written, self.in_flight
        for unit, amount in amounts:
            self.unwritten[unit] = self.unwritten.get(unit, 0.0) - amount
            written[unit] = written.get(unit, 0.0) + amount
            in_flight[unit] = in_flight.get(unit, 0.0) + amount

    def over(self, amounts: Amounts, written: bool) -> None:
        """A grant was settled."""
        holder = self.in_flight if written else self.unwritten
        for unit, amount in amounts:
            holder[unit] = holder.get(unit, 0.0) - amount

    def fork(self) -> Spending:
        """A copy to be run ahead of time by itself."""
        fork = Spending()
        fork.told, fork._forget_above = self.told, self._forget_above
        fork.written, fork.unwritten, fork.in_flight = dict(self.written), dict(self.unwritten), dict(self.in_flight)
        return fork

    def _forget(self) -> None:
        held = self.in_flight
        for unit in [unit for unit, amount in self.unwritten.items() if amount + held.get(unit, 0.0) < _NOTHING]:
            if unit not in self.told:
                for holder in (self.unwritten, self.in_flight, self.written):
                    holder.pop(unit, None)
        self._forget_above = max(_MOST_UNITS, 2 * len(self.unwritten))
