"""Whatever a file holds, it is a configuration or a ConfigError: nothing else ever comes out."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from paceline.config import Config, load_config
from paceline.config.schema import iter_settings as all_settings
from paceline.errors import ConfigError
from support.hypothesis_profiles import examples

WORDS = sorted(
    {part for key, _, _ in all_settings() for part in key.replace("[]", "").split(".")}
    | {"dialect", "breaker", "store", "defaults", "budget_ratio", "min", "api", "other"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70_000)
    | st.floats()
    | st.sampled_from(["1s", "8MiB", "https://api.example.com", "http://[", "${env:A}", "${env:B}", "${file:/}", "${"])
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
SECTIONS = ["server", "egress", "compare", "defaults", "store"]
POLICIES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(SECTIONS, VALUES),
        "upstreams": st.dictionaries(st.text(max_size=3), POLICIES, max_size=3),
    },
)


def outcome(file: Path, text: str) -> Config | ConfigError:
    file.write_text(text, encoding="utf-8")
    try:
        return load_config(file, {"A": "secret-of-a"})
    except ConfigError as error:
        return error


@examples(50, suppress_health_check=[HealthCheck.too_slow])
@given(document=DOCUMENTS)
def test_a_document_is_a_configuration_or_a_config_error(tmp_path_factory, document):
    file = tmp_path_factory.mktemp("any") / "paceline.yaml"
    found = outcome(file, yaml.safe_dump(document, allow_unicode=True))
    if isinstance(found, ConfigError):
        assert "secret-of-a" not in str(found)
        assert all(each.problem and each.fix for each in (found, *found.others))


@examples(50)
@given(text=st.text(alphabet=st.sampled_from("ab:{}[]-*&!#'\"\n ${}|>?%@`,"), max_size=40))
def test_any_text_is_a_configuration_or_a_config_error(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("any") / "paceline.yaml"
    found = outcome(file, text)
    assert isinstance(found, Config) or str(file) in str(found)
