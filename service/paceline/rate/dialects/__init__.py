"""Rate-limit headers of every dialect, read into one value."""

from paceline.rate.dialects.parser import AUTO, DIALECT_NAMES, parse_rate_headers

__all__ = ["AUTO", "DIALECT_NAMES", "parse_rate_headers"]
