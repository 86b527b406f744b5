"""The form of a response that a caller asks for in Accept (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from starlette.types import Scope

from paceline.api.errors import NotAcceptable

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"


def negotiate_media_type(scope: Scope, offered: tuple[str, ...]) -> str:
    """The offered form with the highest weight; of equals the first offered.

    Raises:
        NotAcceptable: none of them will do.
    """
    fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
    if not fields:
        return offered[0]
    ranges = [_parse_media_range(part) for field in fields for part in field.split(",") if part.strip()]
    best_type, best_quality = "", 0.0
    for media_type in offered:
        quality = _match_quality(media_type, ranges)
        if quality > best_quality:
            best_type, best_quality = media_type, quality
    if ranges and not best_type:
        raise NotAcceptable(f"none of the types in Accept can be given; ask for one of {', '.join(offered)}")
    return best_type or offered[0]


def _match_quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most specific range that includes this form."""
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        qualities = [weight for name, weight in ranges if name == candidate]
        if qualities:
            return max(qualities)
    return 0.0


def _parse_media_range(text: str) -> tuple[str, float]:
    name, *parameters = (each.strip().lower() for each in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(1.0, max(0.0, float(value)))
            except ValueError:
                return name, 0.0
    return name, 1.0
