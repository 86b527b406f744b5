"""Metrics and logs, made from the events that the layers emit.

Imports `config/` and what is below it, never `rate/`, `resilience/` or `transport/`. Start with `counters.py` (what is
counted at each event) and `gauges.py` (what is read at each scrape); `metrics.py` exposes both.
"""
