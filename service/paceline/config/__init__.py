"""The configuration: one file, from YAML to frozen models, or every problem in it at once.

Imports `events`, `errors`, `model` and the other modules without a package, nothing above them. Start with `root.py`
(the sections) and `loader.py` (the steps from a file to them). `load_config` is pure and can be called again.
"""

from paceline.config.compare import CompareConfig, CompareTargetConfig
from paceline.config.egress import EgressConfig
from paceline.config.limits import AdaptiveLimitConfig, ConcurrencyConfig, RateWindowConfig
from paceline.config.loader import load_config
from paceline.config.policy import PolicyConfig, TlsConfig
from paceline.config.resilience import RetryConfig, TimeoutConfig
from paceline.config.root import Config
from paceline.config.schema import json_schema, settings_table
from paceline.config.server import ApiKeyConfig, ServerConfig
from paceline.config.upstream import AuthConfig, BasicAuthConfig, HeaderAuthConfig, UpstreamConfig

__all__ = [
    "AdaptiveLimitConfig",
    "ApiKeyConfig",
    "AuthConfig",
    "BasicAuthConfig",
    "CompareConfig",
    "CompareTargetConfig",
    "ConcurrencyConfig",
    "Config",
    "EgressConfig",
    "HeaderAuthConfig",
    "PolicyConfig",
    "RateWindowConfig",
    "RetryConfig",
    "ServerConfig",
    "TimeoutConfig",
    "TlsConfig",
    "UpstreamConfig",
    "json_schema",
    "load_config",
    "settings_table",
]
