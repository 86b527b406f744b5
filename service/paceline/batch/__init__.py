"""Batches: what a caller writes is checked, run and turned into outcomes, or planned and compared.

Imports `upstream/` and what is below it, never `api/` or `cli/`: both use the same checks. Start with `runner.py` (when
each item starts) and `run.py` (one item from start to outcome); `validation.py` is the check before it.
"""
