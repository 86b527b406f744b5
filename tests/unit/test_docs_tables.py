"""The table of verdicts names every end of an attempt once, and the docs hold it as it is now."""

from __future__ import annotations

from pathlib import Path

from paceline.cli.docs_tables.verdicts import verdict_rows, verdict_table
from paceline.errors import AttemptError, Expired, Rejected
from paceline.model.retried_statuses import CONDITIONAL_THROTTLE_STATUSES, TRANSIENT_STATUSES, format_statuses

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def test_every_status_and_every_error_has_one_row():
    rows = [row for row in verdict_rows() if not row.rate_limited]
    assert sorted(status for row in rows for status in row.statuses) == list(range(100, 600))
    errors = [error for row in rows for error in row.errors]
    expected = {error for branch in (AttemptError, Expired, Rejected) for error in branch.__subclasses__()}
    assert len(errors) == len(set(errors))
    assert set(errors) == expected


def test_what_a_named_wait_changes_has_a_row_of_its_own():
    (row,) = (row for row in verdict_rows() if row.rate_limited)
    assert row.statuses == CONDITIONAL_THROTTLE_STATUSES


def test_the_page_holds_the_table_as_it_is_now():
    assert verdict_table() in PAGE.read_text(), "run: make schema"


def test_a_run_of_four_statuses_is_written_as_a_range():
    assert format_statuses({429}) == "429"
    assert format_statuses({503, 403}) == "403 and 503"
    assert format_statuses({520, 523, 521, 522}) == "520 to 523"
    assert format_statuses(TRANSIENT_STATUSES) in PAGE.read_text()
