from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli.io.output_file import open_output
from paceline.cli.usage_error import UsageError

GOOD = b'{"id":"a","index":0,"outcome":"success"}\n'
BAD = b'{"id":"b","index":1,"outcome":"timeout"}\n'


def resumed(file: Path) -> set[str]:
    """Which of a, b and c are taken to be done; the file must take another line at once."""
    sink, done = open_output(str(file), resume=True)
    assert done is not None
    sink.write(b"next\n")
    sink.close()
    return {name for name in "abc" if name in done}


def test_only_what_succeeded_is_done(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(GOOD + BAD)
    assert resumed(file) == {"a"}
    assert file.read_bytes() == GOOD + BAD + b"next\n"


def test_an_id_that_failed_first_and_succeeded_later_is_done(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(BAD + GOOD + BAD.replace(b"timeout", b"success"))
    assert resumed(file) == {"a", "b"}


@pytest.mark.parametrize("cut", range(1, len(GOOD) - 1))
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "out"
    file.write_bytes(BAD + GOOD[:cut])
    assert resumed(file) == set()
    assert file.read_bytes() == BAD + b"next\n"


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(BAD + GOOD[:-1])
    assert resumed(file) == {"a"}
    assert file.read_bytes() == BAD + GOOD + b"next\n"


def test_a_new_or_empty_file_has_nothing_done(tmp_path: Path) -> None:
    assert resumed(tmp_path / "new") == set()


def test_a_file_that_holds_something_is_kept_unless_resumed(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(GOOD)
    with pytest.raises(UsageError, match="--resume"):
        open_output(str(file), resume=False)
    assert file.read_bytes() == GOOD


@pytest.mark.parametrize("content", [b"notes of mine\n", b'{"id":"a"}\n' + GOOD, GOOD + b"notes\n" + GOOD])
def test_a_file_that_is_no_result_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "out"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="no outcome"):
        open_output(str(file), resume=True)
    assert file.read_bytes() == content


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    file = str(tmp_path / "out")
    first, _ = open_output(file, resume=False)
    with pytest.raises(UsageError, match="another run"):
        open_output(file, resume=True)
    first.close()
    open_output(file, resume=True)[0].close()


def test_the_standard_output_cannot_be_resumed() -> None:
    with pytest.raises(UsageError, match="-o"):
        open_output(None, resume=True)
