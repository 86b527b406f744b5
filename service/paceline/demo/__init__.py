"""A rate-limited HTTP API to call (`python -m paceline.demo.server`), and the scene in which each strategy fetches it.

May import: `app` and the layers below it. The command line is above: `cli/run_demo.py` prints what the scene measures.
Start reading: `rate_limited_api.py` for what the API answers, `limits.py` for how it counts, `scene.py` for the demo.
"""
