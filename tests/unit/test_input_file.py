from __future__ import annotations

import os
from pathlib import Path

from paceline.cli.io.input_file import count_lines


def test_lines_of_a_file_are_counted_without_moving_in_it(tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"a\nb\n\nc")
    fd = os.open(file, os.O_RDONLY)
    assert count_lines(fd) == 4
    assert os.read(fd, 10) == b"a\nb\n\nc"
    os.close(fd)


def test_a_pipe_has_no_known_length() -> None:
    ends = os.pipe()
    assert count_lines(ends[0]) is None
    for end in ends:
        os.close(end)
