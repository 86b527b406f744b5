"""The configuration: what an operator may say, read from one file. `load` is pure and can be called again."""

from paceline.config.loader import load_config
from paceline.config.policy import (
    AdaptiveLimitConfig,
    AuthConfig,
    BasicAuthConfig,
    ConcurrencyConfig,
    HeaderAuthConfig,
    PolicyConfig,
    RateWindowConfig,
    RetryConfig,
    TimeoutConfig,
    TlsConfig,
    UpstreamConfig,
)
from paceline.config.root import ApiKeyConfig, CompareConfig, CompareTargetConfig, Config, EgressConfig, ServerConfig
from paceline.config.schema import json_schema, settings_table

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
