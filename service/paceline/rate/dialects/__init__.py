"""Dialects of rate headers, each a table; one parser reads a response's headers into one `RateInfo`.

Imports `rate_info.py` and what is below `rate/`. Start with `dialect.py` (what a table may say) and `vendors.py` (the
tables); `parser.py` chooses one.
"""

from paceline.rate.dialects.parser import AUTO, DIALECT_NAMES, parse_rate_headers

__all__ = ["AUTO", "DIALECT_NAMES", "parse_rate_headers"]
