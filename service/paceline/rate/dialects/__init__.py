"""Rate-limit headers of every dialect, read into one value."""

from paceline.rate.dialects.reading import AUTO, DIALECTS, read

__all__ = ["AUTO", "DIALECTS", "read"]
