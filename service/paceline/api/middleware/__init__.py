"""ASGI middleware that every request passes: metrics, the Host check, authentication.

Imports `api/errors.py`, `api/dependencies.py` and what is below `api/`. Start with `authentication.py`; `api/app.py`
has their order.
"""
