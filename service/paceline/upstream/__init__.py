"""Upstreams: which one a request belongs to, its policy and state, and the order of the layers that lead to it.

Imports `admission/` and what is below it. Start with `pipeline.py`, then `registry.py`.
"""
