"""The tables of codes in docs/api.md, generated from the codes themselves."""

from __future__ import annotations

from paceline.api.problem_code import ProblemCode
from paceline.model import ErrorCode


def error_code_table() -> str:
    """A Markdown table of the codes of items: code, outcome, meaning, what to do."""
    rows = [f"| `{code}` | `{code.outcome}` | {code.meaning} | {code.fix} |" for code in ErrorCode]
    return "\n".join(["| code | outcome | meaning | what to do |", "|---|---|---|---|", *rows]) + "\n"


def problem_code_table() -> str:
    """A Markdown table of the codes of problem documents: status, code, meaning, what to do."""
    rows = [f"| {code.status} | `{code}` | {code.meaning} | {code.fix} |" for code in ProblemCode]
    return "\n".join(["| status | code | meaning | what to do |", "|---|---|---|---|", *rows]) + "\n"
