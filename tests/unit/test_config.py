"""What a configuration file comes to: defaults, merging, references, and the values the core takes."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from paceline.config import Config, PolicyConfig, ServerConfig, load_config
from paceline.errors import ConfigError
from paceline.header_values import ENGINE_HEADERS
from paceline.model import TRANSIENT_STATUSES, Priority, Rate, RetryPolicy
from paceline.transport.base import forwardable_headers


@pytest.fixture
def write(tmp_path):
    def to(document: str | dict, name: str = "paceline.yaml") -> Path:
        file = tmp_path / name
        file.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
        return file

    return to


def upstream(**keys):
    return {"upstreams": {"api": {"base_url": "https://api.example.com"} | keys}}


def test_nothing_said_is_the_defaults_of_the_design(write):
    config = load_config(write("{}"), {})
    assert config == Config()
    server = config.server
    assert (server.host, server.port, server.admin_port) == ("127.0.0.1", 8080, None)
    assert (server.max_body, server.max_items, server.max_in_flight_items) == (8 << 20, 1000, 20_000)
    assert (server.max_batch_response, server.max_deadline) == (64 << 20, 900.0)
    assert (server.pre_stop, server.drain) == (0.0, 25.0)
    assert (server.hosts, server.api_keys) == ((), ())
    assert (config.egress.mode, config.egress.allow, config.egress.deny) == ("public", (), ())
    assert config.egress.ports == (80, 443)
    assert config.compare.target is None
    policy = config.policy_for_undeclared
    assert (policy.engine, policy.allow_unpaced, policy.to_rates()) == ("aiohttp", False, ())
    assert (policy.transit, policy.max_pause, policy.max_response) == (0.05, 900.0, 10 << 20)
    assert (policy.concurrency.limit, policy.concurrency.initial) == (None, 20)
    assert (policy.timeout.dns, policy.timeout.connect, policy.timeout.attempt, policy.timeout.item) == (2, 3, 10, 30)
    assert policy.to_retry_policy() == RetryPolicy(attempts=3, throttles=10, base_s=0.1, cap_s=20.0, max_pause_s=900.0)


def test_a_whole_upstream_is_read(write):
    config = load_config(
        write(
            upstream(
                engine="httpx",
                allow_unpaced=True,
                rate=[{"limit": 80, "per": "1m", "burst": 10}, {"limit": 1000, "per": 60, "unit": "tokens"}],
                transit="20ms",
                max_pause="1h",
                concurrency={"limit": 50},
                headers={"Accept": "application/json"},
                retry={"attempts": 5, "throttles": 2, "base": "1s", "cap": "2s", "statuses": [409, 423]},
                max_response="1MiB",
                idempotency_header="Idempotency-Key",
                proxy="http://user:word@proxy.example.com:3128",
            )
        ),
        {},
    )
    api = config.upstreams["api"]
    assert api.to_rates() == (Rate(80, 60, 10), Rate(1000, 60, 1000, "tokens"))
    assert api.concurrency.limit == 50
    assert api.header_pairs() == (("accept", "application/json"),)
    assert api.to_retry_policy() == RetryPolicy(5, 2, 1.0, 2.0, 3600.0, TRANSIENT_STATUSES | {409, 423})
    assert (api.engine, api.allow_unpaced, api.transit, api.max_response) == ("httpx", True, 0.02, 1 << 20)
    assert api.idempotency_header == "idempotency-key"
    assert api.proxy_url() == "http://user:word@proxy.example.com:3128"


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"bearer": "abc"}, ("authorization", "Bearer abc")),
        ({"basic": {"user": "me", "password": "pä:ss"}}, ("authorization", "Basic bWU6cMOkOnNz")),
        ({"header": {"name": "X-Api-Key", "value": "abc"}}, ("x-api-key", "abc")),
    ],
)
def test_each_kind_of_auth_is_one_header(write, auth, header):
    assert load_config(write(upstream(auth=auth)), {}).upstreams["api"].auth.as_header() == header


def test_a_credential_takes_the_place_of_a_configured_header_of_its_name(write):
    api = load_config(
        write(upstream(auth={"bearer": "abc"}, headers={"Authorization": "x", "Accept": "y"})), {}
    ).upstreams["api"]
    assert api.default_headers() == (("accept", "y"),)


def test_defaults_are_under_every_upstream_and_its_own_word_wins(write):
    defaults = {
        "timeout": {"attempt": "1s", "connect": "2s"},
        "headers": {"Accept": "a", "X-From": "us"},
        "rate": [{"limit": 1, "per": "1s"}, {"limit": 2, "per": "1m"}],
        "proxy": "http://proxy.example.com:3128",
        "concurrency": {"limit": 7},
    }
    own = {
        "timeout": {"attempt": "5s"},
        "headers": {"accept": "b"},
        "rate": [{"limit": 9, "per": "1s"}],
        "proxy": None,
        "concurrency": {"adaptive": {"initial": 3}},
    }
    document = upstream(**own) | {"defaults": defaults}
    document["upstreams"]["plain"] = {"base_url": "https://plain.example.com"}
    config = load_config(write(document), {})
    api, plain = config.upstreams["api"], config.upstreams["plain"]
    assert (api.timeout.attempt, api.timeout.connect, api.timeout.dns) == (5.0, 2.0, 2.0)
    assert api.header_pairs() == (("accept", "b"), ("x-from", "us"))
    assert api.to_rates() == (Rate(9, 1, 9),)
    assert api.proxy_url() is None
    assert (api.concurrency.limit, api.concurrency.initial) == (None, 3)
    assert (plain.timeout.attempt, plain.concurrency.limit, len(plain.rate)) == (1.0, 7, 2)
    assert config.policy_for_undeclared.timeout.attempt == 1.0


def test_a_section_with_everything_commented_out_is_as_if_not_there(write):
    assert load_config(write("server:\n  # port: 80\nupstreams:\n"), {}) == Config()


def test_dates_stay_text(write):
    text = "upstreams: {api: {base_url: https://api.example.com, headers: {x-version: 2022-11-28}}}\n"
    assert load_config(write(text), {}).upstreams["api"].header_pairs() == (("x-version", "2022-11-28"),)


def test_anchors_and_merge_keys_are_understood(write):
    text = (
        "upstreams:\n"
        "  one: &one\n    base_url: https://one.example.com\n    timeout: {attempt: 4s}\n"
        "  two:\n    <<: *one\n    base_url: https://two.example.com\n"
    )
    config = load_config(write(text), {})
    assert config.upstreams["two"].base_url == "https://two.example.com"
    assert config.upstreams["two"].timeout.attempt == 4.0


def test_references_come_from_the_environment_and_from_files_beside_the_configuration(write):
    write("from a file\n", "secret")
    document = upstream(
        auth={"header": {"name": "x-key", "value": "${env:KEY}-${file:secret}-$${env:KEY}"}},
        timeout={"attempt": "${env:TIMEOUT}"},
    )
    document["server"] = {"port": "${env:LISTEN}"}
    config = load_config(write(document), {"KEY": "abc", "TIMEOUT": "3s", "LISTEN": "9000"})
    assert config.upstreams["api"].auth.as_header()[1] == "abc-from a file-${env:KEY}"
    assert config.upstreams["api"].timeout.attempt == 3.0
    assert config.server.port == 9000


def test_an_empty_variable_or_file_is_missing(write):
    write("\n", "secret")
    with pytest.raises(ConfigError, match="environment variable KEY is not set"):
        load_config(write(upstream(auth={"bearer": "${env:KEY}"})), {"KEY": ""})
    with pytest.raises(ConfigError, match="file secret is empty"):
        load_config(write(upstream(auth={"bearer": "${file:secret}"})), {})


SECRET = "s3cr3t-of-the-environment"


def test_secrets_are_in_no_representation(write):
    document = upstream(
        auth={"bearer": "${env:S}"}, headers={"x-key": "${env:S}"}, proxy="http://u:${env:S}@proxy.example.com"
    )
    document["server"] = {"api_keys": [{"name": "a", "key": "${env:S}"}]}
    config = load_config(write(document), {"S": SECRET})
    for shown in (repr(config), str(config), repr(config.model_dump()), config.model_dump_json()):
        assert SECRET not in shown
    assert config.upstreams["api"].header_pairs() == (("x-key", SECRET),)


def keys_of_every_kind():
    """Documents with a reference in place of each kind of value."""
    whole = upstream(
        engine="x",
        allow_unpaced="x",
        allow_private="x",
        base_url="x",
        rate=[{"limit": "x", "per": "x", "burst": "x", "unit": "x"}],
        transit="x",
        concurrency={"limit": "x"},
        auth={"basic": {"user": "x", "password": "x"}},
        headers={"x-key": "x"},
        retry={"attempts": "x", "statuses": ["x"], "base": "x"},
        timeout={"dns": "x"},
        max_response="x",
        idempotency_header="x",
        tls={"ca_file": "x"},
        proxy="x",
        dialect="x",
        partition="x",
    )
    whole["server"] = {
        "host": "x",
        "port": "x",
        "max_body": "x",
        "hosts": ["x"],
        "api_keys": [{"name": "x", "key": "x", "weight": "x", "max_priority": "x", "upstreams": ["x"]}],
    }
    whole["egress"] = {"mode": "x", "allow": ["x"], "deny": ["x"], "ports": ["x"]}
    whole["compare"] = {"target": {"upstream": "x", "path": "x"}}
    return yaml.safe_dump(whole).replace(": x\n", ": '${env:S}'\n").replace("- x\n", "- '${env:S}'\n")


@pytest.mark.parametrize("secret", [SECRET, "line\nbreak-s3cr3t", "10.0.0.1/8-s3cr3t", "http://u:s3cr3t@h", "s3cr3t 9"])
def test_secrets_are_in_no_error(write, secret):
    text = keys_of_every_kind()
    assert text.count("${env:S}") > 30
    with pytest.raises(ConfigError) as refused:
        load_config(write(text), {"S": secret})
    assert len(refused.value.others) > 20
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "value", ["*s3cr3t", "!s3cr3t", "!s3'cr3t x", "'s3cr3t", '"\\s3cr3t"', "s3cr3t: s3cr3t: x", "@s3cr3t"]
)
def test_a_secret_written_into_broken_yaml_is_not_repeated(write, value):
    with pytest.raises(ConfigError) as refused:
        load_config(write(f"upstreams:\n  api:\n    auth:\n      bearer: {value}\n"), {})
    assert "cr3t" not in str(refused.value)


def test_reading_twice_gives_equal_configurations(write):
    file = write(upstream(auth={"bearer": "${env:S}"}))
    environ = {"S": SECRET}
    assert load_config(file, environ) == load_config(file, environ)
    assert load_config(file, environ) != load_config(file, {"S": "another"})
    assert environ == {"S": SECRET}


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        Config().server.port = 1  # type: ignore[misc]


def test_an_api_key_has_a_priority_and_may_be_bound_to_upstreams(write):
    keys = [
        {"name": "a", "key": "k" * 16},
        {"name": "b", "key": "l" * 16, "max_priority": "bulk", "upstreams": ["api"]},
    ]
    first, second = load_config(write(upstream() | {"server": {"api_keys": keys}}), {}).server.api_keys
    assert (first.max_priority, first.upstreams) == (Priority.INTERACTIVE, None)
    assert (second.max_priority, second.upstreams) == (Priority.BULK, ("api",))


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com", "http://127.0.0.1:8000", "http://[::1]/a", "http://10.1.2.3", "http://a.localhost/b/"],
)
def test_a_private_base_url_is_taken_where_it_is_allowed(write, url):
    assert load_config(write(upstream(base_url=url, allow_private=True)), {}).upstreams["api"].base_url == url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "http://[::1]", "http://192.168.0.1", "http://LOCALHOST.", "http://0.0.0.0"]
)
def test_a_private_base_url_is_refused_elsewhere(write, url):
    with pytest.raises(ConfigError, match="is at a private address"):
        load_config(write(upstream(base_url=url)), {})


def test_tls_files_start_at_the_folder_of_the_configuration(write, tmp_path):
    write("pem", "ca.pem")
    config = load_config(write(upstream(tls={"ca_file": "ca.pem"})), {})
    assert config.upstreams["api"].tls.ca_file == str(tmp_path / "ca.pem")


def test_no_configured_header_would_be_dropped_by_an_engine():
    assert all(forwardable_headers(((name, "x"),)) == [] for name in ENGINE_HEADERS)
    assert forwardable_headers((("proxy-authorization", "x"),)) == []


def test_every_setting_is_described():
    sections = [Config, ServerConfig, PolicyConfig]
    assert all(field.description for section in sections for field in section.model_fields.values())
