"""Which form of an answer a caller wants, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from starlette.types import Scope

from paceline.api.errors import NotAcceptable

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"


def wanted_form(scope: Scope, offered: tuple[str, ...]) -> str:
    """The offered form with the highest weight; of equals the first offered.

    Raises:
        NotAcceptable: none of them will do.
    """
    fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
    if not fields:
        return offered[0]
    ranges = [_range(part) for field in fields for part in field.split(",") if part.strip()]
    best, best_weight = "", 0.0
    for form in offered:
        weight = _weight(form, ranges)
        if weight > best_weight:
            best, best_weight = form, weight
    if ranges and not best:
        raise NotAcceptable(f"none of the types in Accept can be given; ask for one of {', '.join(offered)}")
    return best or offered[0]


def _weight(form: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most specific range that holds this form."""
    for candidate in (form, form.partition("/")[0] + "/*", "*/*"):
        weights = [weight for name, weight in ranges if name == candidate]
        if weights:
            return max(weights)
    return 0.0


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (each.strip().lower() for each in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(1.0, max(0.0, float(value)))
            except ValueError:
                return name, 0.0
    return name, 1.0
