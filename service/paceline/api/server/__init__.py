"""Below ASGI: the HTTP server under the application, and everything that reaches into uvicorn's own classes.

| bound on a client | replaced in uvicorn | what uvicorn does there | its nearest option |
|---|---|---|---|
| a request arrives in time | `data_received`, `on_message_*` | waits without end | `timeout_keep_alive`, when idle |
| a head is at most 64 KiB | `on_url`, `on_header` | takes any size | `h11_max_incomplete_event_size` (1) |
| a bad request gets a reason | `send_400_response` | "Invalid HTTP request", then a reset | none |
| an upgrade offer is ignored | `on_headers_complete` | drops the body, stalls | `ws="none"`: the warning only |
| its requests end with it | `connection_lost` | notifies the last of several | none |
| it sends a first request | `connection_made` | waits without end | `timeout_keep_alive`: after a response |
| it reads its response | `pause_writing`, `resume_writing` | waits without end | none |

| step of the process | replaced in uvicorn | what uvicorn does there | its nearest option |
|---|---|---|---|
| signals, the start | `capture_signals`, `startup` | takes SIGINT and SIGTERM | none: it has these replaced |
| keep-alive off in a drain | default headers | keeps connections until the end | `headers`: read at the start only |
| the end | `shutdown` | resets queued connections, waits without end | `timeout_graceful_shutdown` (2) |

(1) For h11 only, which takes 48 us of CPU for a request where httptools takes 2. (2) It cancels requests and logs each
as an error. `limit_concurrency` counts connections, not items or bytes, and its 503 is no problem document:
`load_shedding.py` replaces it.

A reverse proxy that buffers whole requests and responses does much of the first table. It is not required, as `paceline
serve` must be safe alone, and not enough: buffering would end the streams, and slow readers come through without it.

Start with `http_protocol.py`, which uses `slow_readers.py` and `malformed_request.py`; then `uvicorn_server.py` and
`drain.py`. `admin.py` serves health and metrics from a separate thread. The versions of uvicorn that all this was
checked with: `tests/integration/test_http_protocol.py`. How to move to the next: docs/decisions/0021-below-asgi.md.
"""
