"""What is shipped is true: the default and the examples load, the schema is fresh, every setting is documented."""

import json
import re
from pathlib import Path

import pytest

from paceline.cli.check_config import check_config
from paceline.cli.docs_tables.renew import print_reference, print_schema, replace_reference_tables
from paceline.cli.docs_tables.verdicts import verdict_table
from paceline.config import json_schema, load_config, settings_table
from paceline.config.schema import iter_settings

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config/paceline.yaml", *sorted((ROOT / "config/examples").glob("*.yaml"))]
ENVIRON = {
    name: f"value-of-{name.lower().replace('_', '-')}"
    for file in FILES
    for name in re.findall(r"\$\{env:(\w+)\}", file.read_text())
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_file_loads(file):
    load_config(file, ENVIRON)


def test_the_default_file_needs_no_environment_and_stays_on_loopback():
    config = load_config(ROOT / "config/paceline.yaml", {})
    assert config.server.host == "127.0.0.1"
    assert config.upstreams == {}


def test_the_commented_lines_of_the_default_file_work_too(tmp_path):
    lines = (ROOT / "config/paceline.yaml").read_text().splitlines()
    settings_in_comments = re.compile(r"^( *)# (( *)(api_keys|- \{|upstreams|\w+):? ?.*)$")
    start = lines.index("server:")
    opened = [
        settings_in_comments.sub(r"\1\2", line) if re.match(r"^ *# .*[:}]$|^ *# .*: [\[{h]", line) else line
        for line in lines[start:]
    ]
    file = tmp_path / "paceline.yaml"
    file.write_text("\n".join(opened))
    config = load_config(file, ENVIRON)
    assert list(config.upstreams) == ["example"]
    assert config.compare.target is not None
    assert [key.name for key in config.server.api_keys] == ["reports"]


def test_the_examples_hold_no_secret():
    for file in FILES:
        for secret in re.findall(r"(?:bearer|password|value|key): *([^,}\n]+)", file.read_text()):
            assert "${env:" in secret, f"{file.name}: {secret}"


def test_the_examples_say_what_the_vendors_allow():
    config = {file.stem: load_config(file, ENVIRON) for file in FILES}
    github = config["github"].upstreams["github"]
    assert [(rate.limit, rate.per_s) for rate in github.to_rates()] == [(5000, 3600), (900, 60)]
    shopify = config["shopify"].upstreams["shopify"]
    assert shopify.base_url == "https://value-of-shopify-shop.myshopify.com/admin/api/2025-10"
    assert [rate.per_second for rate in shopify.to_rates()] == [2.0]
    openai = config["openai"].upstreams["openai"]
    assert [rate.unit for rate in openai.to_rates()] == ["requests", "tokens"]


def test_the_schema_is_fresh():
    stored = json.loads((ROOT / "config/paceline.schema.json").read_text())
    assert stored == json_schema(), "run: paceline schema > config/paceline.schema.json"


def test_every_shipped_file_names_the_schema():
    for file in FILES:
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
        assert named is not None, file
        assert (file.parent / named[1]).resolve() == ROOT / "config/paceline.schema.json"


def test_every_setting_is_documented():
    page = (ROOT / "docs/configuration.md").read_text()
    missing = [key for key, _, _ in iter_settings() if f"`{key}`" not in page]
    assert not missing
    assert settings_table() in page, "run: paceline schema --table, and put it into docs/configuration.md"


def test_no_setting_is_documented_that_does_not_exist():
    page = (ROOT / "docs/configuration.md").read_text().partition("## Every setting")[2]
    known = {key for key, _, _ in iter_settings()}
    named = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    assert named == known


def test_the_example_in_the_docs_works(tmp_path):
    page = (ROOT / "docs/configuration.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        file = tmp_path / "paceline.yaml"
        file.write_text(block)
        load_config(file, {name: "value-of-" + name.lower() for name in re.findall(r"\$\{env:(\w+)\}", block)})


def test_check_config_prints_what_a_good_file_declares(capsys, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    file = ROOT / "config/examples/internal.yaml"
    assert check_config(file) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{file}: ok\n  listens on 0.0.0.0:8080\n  upstreams: orders, search\n"
    assert shown.err == ""


def test_check_config_prints_every_problem_of_a_bad_file(capsys):
    file = ROOT / "tests/config/several_at_once.yaml"
    assert check_config(file) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count(f"{file}: ") == 4
    assert shown.err.count("  fix: ") == 4


def test_check_config_tells_of_a_file_that_serve_will_refuse(capsys, tmp_path):
    file = tmp_path / "open.yaml"
    file.write_text("server: {host: 0.0.0.0}\n")
    assert check_config(file) == 0
    assert f"{file}: server.api_keys: anyone who reaches 0.0.0.0" in capsys.readouterr().err


def test_schema_and_table_are_printed_as_they_are_stored(capsys):
    print_schema()
    assert capsys.readouterr().out == (ROOT / "config/paceline.schema.json").read_text()
    print_reference()
    assert capsys.readouterr().out == settings_table()


@pytest.mark.parametrize("table", [settings_table(), verdict_table()], ids=["settings", "verdicts"])
def test_a_stale_table_is_renewed_in_its_place(tmp_path: Path, table: str):
    page = tmp_path / "page.md"
    heading, rule, *_ = table.splitlines()
    page.write_text(f"before\n\n{heading}\n{rule}\n| `gone` | 1 | No more. |\n\nafter\n")
    replace_reference_tables(page)
    assert page.read_text() == f"before\n\n{table}\nafter\n"
    replace_reference_tables(page)
    assert page.read_text() == f"before\n\n{table}\nafter\n"
