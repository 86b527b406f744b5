"""Worked examples for the API's description; a test reads requests and answers as what they claim to be."""

from __future__ import annotations

from typing import Any

Example = dict[str, Any]

BATCH_REQUESTS: dict[str, Example] = {
    "smallest": {
        "summary": "Three URLs",
        "value": {"requests": [{"url": f"https://api.example.com/items/{n}"} for n in (1, 2, 3)]},
    },
    "declared": {
        "summary": "A declared upstream, with what all items share",
        "value": {
            "deadline": "30s",
            "defaults": {"upstream": "github", "headers": {"accept": "application/json"}, "timeout": "5s"},
            "requests": [
                {"id": "user", "path": "/users/octocat"},
                {"id": "repos", "path": "/users/octocat/repos", "params": {"per_page": "5"}},
            ],
        },
    },
    "ordered": {
        "summary": "Steps that depend on each other, ended by the first failure",
        "value": {
            "on_failure": "halt",
            "requests": [
                {"id": "make", "method": "POST", "url": "https://api.example.com/things", "json": {"name": "a"}},
                {"id": "look", "url": "https://api.example.com/things", "depends_on": ["make"]},
            ],
        },
    },
    "own_rate": {
        "summary": "A rate of the batch's own, beside the upstream's",
        "value": {
            "rate": {"limit": 5, "per": "1s", "burst": 1},
            "retry": {"attempts": 5},
            "requests": [{"url": "https://api.example.com/slow", "cost": 2, "expect": "text"}],
        },
    },
}

_TIMING: Example = {
    "start_ms": 0.061,
    "total_ms": 61.41,
    "queue_ms": 0.0,
    "rate_wait_ms": 12.5,
    "pause_ms": 0.0,
    "backoff_ms": 0.0,
    "upstream_ms": 48.702,
    "limited_by": "upstream",
}
_SUCCESS: Example = {
    "id": "user",
    "index": 0,
    "upstream": "github",
    "outcome": "success",
    "status": 200,
    "headers": {"content-type": "application/json"},
    "body": {"login": "octocat"},
    "body_encoding": "json",
    "attempts": 1,
    "error": None,
    "timing": _TIMING,
}
_REJECTED: Example = {
    "id": "1",
    "index": 1,
    "upstream": "other",
    "outcome": "rejected",
    "status": None,
    "headers": {},
    "body": None,
    "body_encoding": "none",
    "attempts": 0,
    "error": {
        "code": "unknown_upstream",
        "message": "no upstream is called 'gihub'; declared: github",
        "sent": False,
        "retry_after_ms": None,
    },
    "timing": dict.fromkeys(_TIMING, 0.0) | {"limited_by": "upstream"},
}
BATCH_RESPONSE: Example = {
    "batch_id": "80a23f3d5c804bcba4fb5e547b45a63a",
    "strategy": "adaptive",
    "elapsed_ms": 62.018,
    "summary": {"total": 2, "succeeded": 1, "failed": 0, "rejected": 1, "attempts": 1, "retries": 0},
    "responses": [_SUCCESS, _REJECTED],
}

PLAN_RESPONSE: Example = {
    "finish_in_ms": 41250.0,
    "binding": {"upstream": "github", "window": "80/1m"},
    "misses_deadline": 12,
    "rejected": 0,
    "per_upstream": [
        {
            "upstream": "github",
            "items": 100,
            "finish_in_ms": 41250.0,
            "window": "80/1m",
            "misses_deadline": 12,
            "rejected": 0,
            "call_ms": 182.4,
        }
    ],
}

FETCH_REQUESTS: dict[str, Example] = {
    "smallest": {"summary": "One URL", "value": {"url": "https://api.example.com/items/1"}},
    "patient": {
        "summary": "With a deadline, as a background call",
        "value": {"upstream": "github", "path": "/users/octocat", "deadline": "2m", "priority": "bulk"},
    },
}
FETCH_RESPONSE = _SUCCESS

UPSTREAM_RESPONSE: Example = {
    "name": "github",
    "base_url": "https://api.github.com",
    "engine": "aiohttp",
    "paused": False,
    "in_flight": 3,
    "queued": 40,
    "concurrency_limit": 20,
    "budgets": [
        {
            "key": "upstream",
            "rate_limit_per_second": 1.333333,
            "paused_for_ms": 0,
            "windows": [{"limit": 80, "per": "1m", "unit": "requests", "remaining": 71, "source": "declared"}],
            "last_rate_info": None,
        }
    ],
    "breaker": "closed",
}
UPSTREAM_PATCHES: dict[str, Example] = {
    "retune": {"summary": "Another rate", "value": {"rate": [{"limit": 40, "per": "1m", "burst": 5}]}},
    "pause": {"summary": "Hold everything back", "value": {"paused": True}},
    "reset": {"summary": "As configured, what was learned forgotten", "value": {"reset": True}},
}

COMPARE_REQUESTS: dict[str, Example] = {
    "five": {
        "summary": "Every strategy",
        "value": {"request": {"upstream": "github", "path": "/zen"}, "n": 20, "rate": {"limit": 10, "per": "1s"}},
    },
    "engines": {
        "summary": "Two strategies on two engines",
        "value": {
            "request": {"upstream": "github", "path": "/zen"},
            "n": 20,
            "strategies": ["bounded", "adaptive"],
            "engines": ["aiohttp", "httpx"],
            "max_concurrency": 10,
        },
    },
}
COMPARE_RESPONSE: Example = {
    "upstream": "github",
    "n": 20,
    "unpaced": False,
    "results": [
        {
            "strategy": "adaptive",
            "engine": "aiohttp",
            "elapsed_ms": 1934.2,
            "throughput_per_s": 10.34,
            "p50_ms": 960.1,
            "p95_ms": 1861.7,
            "p99_ms": 1934.0,
            "status_counts": {"200": 20},
            "outcomes": {"success": 20},
            "refusals": 0,
            "attempts": 20,
            "retries": 0,
        }
    ],
}

CLASSIC_RESPONSE: Example = {
    "message": "3 of 3 requests succeeded, sent all at once, in 0.12 s",
    "status_codes": [200, 200, 200],
}
ALIVE_RESPONSE: Example = {"status": "alive"}
READY_RESPONSE: Example = {"status": "ready"}
NOT_READY_RESPONSE: Example = {"status": "not_ready"}

PROBLEM_RESPONSES: dict[int, Example] = {
    422: {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "requests[3].timeout is negative; give it more than zero seconds",
        "code": "invalid",
        "field": "requests[3].timeout",
    },
    503: {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the service is shutting down; send it again, to another instance if there is one",
        "code": "draining",
    },
}
