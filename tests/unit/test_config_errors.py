"""One file per mistake, in tests/config: its leading comment is exactly what the operator is told.

Lines of the comment that are no fix name the key and the problem; the file's own path comes before each.
"""

from itertools import takewhile
from pathlib import Path

import pytest

from paceline.config import load_config
from paceline.errors import ConfigError

MISTAKES = sorted((Path(__file__).parents[1] / "config").glob("*.yaml"))


def told(file: Path) -> str:
    comment = takewhile(lambda line: line.startswith("# "), file.read_text().splitlines())
    lines = [line.removeprefix("# ") for line in comment]
    return "\n".join(line if line.startswith("  fix: ") else f"{file}: {line}" for line in lines)


@pytest.mark.parametrize("file", MISTAKES, ids=lambda file: file.stem)
def test_a_mistake_is_told_with_file_key_and_fix(file):
    with pytest.raises(ConfigError) as refused:
        load_config(file, {})
    assert str(refused.value) == told(file)


def test_the_mistakes_are_there():
    assert len(MISTAKES) > 80


def test_several_mistakes_are_one_error_that_holds_each():
    file = next(file for file in MISTAKES if file.stem == "several_at_once")
    with pytest.raises(ConfigError) as refused:
        load_config(file, {})
    keys = [each.key for each in (refused.value, *refused.value.others)]
    assert keys == ["server.port", "egress.mode", "upstreams.api.rate[0].limit", "upstreams.api.retry.attempts"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"# nothing but a comment\n", "is empty"),
        (b"server: {host: \xff}\n", "is not UTF-8 text"),
        (b"server: {host: \x00}\n", "holds characters YAML does not allow"),
        (b"server: {port: " + b"9" * 5000 + b"}\n", "holds a number that cannot be read"),
        (b"[" * 5000, "is nested too deeply"),
    ],
)
def test_a_file_that_is_no_document_is_refused(tmp_path, content, problem):
    file = tmp_path / "paceline.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load_config(file, {})
    assert refused.value.problem == problem


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"paceline\.yaml: no such file or directory\n  fix: name a file that exists"):
        load_config(tmp_path / "paceline.yaml", {})
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path, {})
