"""The configuration: what an operator may say, read from one file. `load` is pure and can be called again."""

from paceline.config.loading import load
from paceline.config.policy import (
    Adaptive,
    Auth,
    Basic,
    Concurrency,
    HeaderAuth,
    Policy,
    RateWindow,
    Retry,
    Timeout,
    Tls,
    Upstream,
)
from paceline.config.schema import json_schema, reference
from paceline.config.server import ApiKey, Compare, Config, Egress, Server, Target

__all__ = [
    "Adaptive",
    "ApiKey",
    "Auth",
    "Basic",
    "Compare",
    "Concurrency",
    "Config",
    "Egress",
    "HeaderAuth",
    "Policy",
    "RateWindow",
    "Retry",
    "Server",
    "Target",
    "Timeout",
    "Tls",
    "Upstream",
    "json_schema",
    "load",
    "reference",
]
