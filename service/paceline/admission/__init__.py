"""Admission: which attempts may go to an upstream now, by its rates, its permits, its health and fair queueing.

Imports `rate/`, `resilience/` and what is below them. Start with `gate.py` (the rules, pure), then `async_gate.py` (its
asyncio side) and `layer.py` (its place in the pipeline); `forecast.py` simulates copies of gates.
"""
