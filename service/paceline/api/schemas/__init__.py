"""The models of requests and responses, their examples, and what OpenAPI needs beyond what FastAPI finds by itself.

Imports `batch/` and what is below it, and of `api/` only errors and content negotiation. Start with `requests.py` and
`responses.py`.
"""
