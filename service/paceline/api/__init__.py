"""The HTTP API, as FastAPI's users write it, and the server below it.

Imports `batch/` and what is below it; `app.py` next to this package builds the service that it serves. Start with
`app.py` (routers, middleware and exception handlers, in order), then `dependencies.py` and a file of `routes/`.
"""
