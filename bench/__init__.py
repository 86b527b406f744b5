"""Ratios against what people write by hand; `make bench` prints them and asserts nothing."""
