"""Failures of an upstream: the verdict on each attempt, retries and their budget, breaker, adaptive limit, timeouts.

Imports `config/` and what is below it, never `rate/`, `transport/` or `telemetry/`. Start with `verdict.py`, which all
of them go by, then `retry.py`; `layer.py` is what a layer of the pipeline is.
"""
