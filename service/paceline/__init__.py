"""Paceline: a rate-aware, resilient fetch service."""

from importlib.metadata import version

__version__ = version("paceline")
