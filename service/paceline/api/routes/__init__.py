"""The routes: one file with one `APIRouter` for each resource.

Imports the rest of `api/` but `app.py` and `server/`. Start with `upstreams.py`, the plainest; `batch.py` and
`fetch.py` are the hot paths, whose bodies `batch_reader.py` decodes.
"""
