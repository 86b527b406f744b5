"""The HTTP engines, and what every connection passes: URL parsing, egress rules, name resolution, body decoding.

Imports `config/` and what is below it, never `rate/`, `resilience/` or `telemetry/`. Start with `base.py`, the contract
of an engine; `aiohttp.py` and `httpx.py` are the engines.
"""
