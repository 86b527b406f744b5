from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.cli.io.id_set import IdSet


@given(st.lists(st.text(max_size=5)))
def test_it_says_what_a_set_says(texts: list[str]) -> None:
    ids, reference = IdSet(), set[str]()
    for text in texts:
        assert (text in ids) == (text in reference)
        assert ids.add(text) == (text not in reference)
        reference.add(text)
    assert len(ids) == len(reference)
    assert all(text in ids for text in reference)


def test_it_grows_and_forgets_nothing() -> None:
    ids = IdSet()
    names = [f"item-{number}" for number in range(20_000)]
    assert all(ids.add(name) for name in names)
    assert not any(ids.add(name) for name in names)
    assert not any(f"other-{number}" in ids for number in range(20_000))
