"""Rate limits: what rate headers advertise, what is learned from throttles, and the windows that keep to both.

Imports `config/` and what is below it, never `resilience/`, `transport/` or `telemetry/`. Start with `window.py` (one
rate window), then `header_limits.py` and `learner.py` (where limits come from); `dialects/` parses the headers.
"""
