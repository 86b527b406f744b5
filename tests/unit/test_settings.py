"""A process is told its settings by environment and flags, and never listens in the open by accident."""

import pytest

from paceline.config import ApiKeyConfig, Config, ServerConfig
from paceline.errors import ConfigError
from paceline.settings import (
    Settings,
    find_config_file,
    is_loopback,
    read_config,
    read_settings,
    require_api_keys_beyond_loopback,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PACELINE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_said_is_the_built_in_defaults():
    settings = read_settings()
    assert (settings.log_level, settings.log_format, settings.insecure) == ("info", "json", False)
    assert find_config_file(settings) is None
    assert read_config(settings, {}) == Config()


def test_the_default_file_is_read_where_it_exists(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/paceline.yaml").write_text("server: {port: 9000}\n")
    assert read_config(read_settings(), {}).server.port == 9000


def test_a_named_file_must_exist():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        read_config(read_settings(config="nowhere.yaml"), {})


def test_environment_goes_over_the_file_and_flags_over_the_environment(monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("server: {host: 127.0.0.2, port: 9000, admin_port: 9001, max_items: 5}\n")
    monkeypatch.setenv("PACELINE_CONFIG", str(file))
    monkeypatch.setenv("PACELINE_PORT", "9100")
    monkeypatch.setenv("PACELINE_ADMIN_PORT", "9101")
    server = read_config(read_settings(port=9200, host=None), {}).server
    assert (server.host, server.port, server.admin_port, server.max_items) == ("127.0.0.2", 9200, 9101, 5)


def test_a_setting_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setenv("PACELINE_PORT", "eighty")
    monkeypatch.setenv("PACELINE_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError) as refused:
        read_settings()
    assert str(refused.value) == (
        "environment or flags: PACELINE_PORT: must be a whole number\n  fix: write a number without fraction\n"
        "environment or flags: PACELINE_LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'\n"
        "  fix: write one of these"
    )


def test_other_variables_are_none_of_our_business(monkeypatch):
    monkeypatch.setenv("PACELINE_SOMETHING", "else")
    monkeypatch.setenv("PORT", "1")
    assert read_settings() == Settings()


def test_an_empty_variable_is_as_if_not_there(monkeypatch):
    monkeypatch.setenv("PACELINE_PORT", "")
    assert read_settings().port is None


def test_a_flag_may_not_make_both_ports_the_same():
    with pytest.raises(ConfigError, match="PACELINE_ADMIN_PORT: is the same as port"):
        read_config(read_settings(admin_port=8080), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    require_api_keys_beyond_loopback(Config(), host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "paceline.internal", "127.0.0.1.example.com"])
def test_beyond_loopback_a_key_is_needed_or_it_is_said_to_be_meant(host):
    keys = ServerConfig(api_keys=(ApiKeyConfig(name="a", key="k" * 16),))
    assert not is_loopback(host)
    with pytest.raises(ConfigError) as refused:
        require_api_keys_beyond_loopback(Config(), host, insecure=False)
    assert refused.value.key == "server.api_keys"
    assert "--insecure" in refused.value.fix
    require_api_keys_beyond_loopback(Config(), host, insecure=True)
    require_api_keys_beyond_loopback(Config(server=keys), host, insecure=False)
