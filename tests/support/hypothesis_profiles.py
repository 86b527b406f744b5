"""How far a property is searched: `make test` tries few examples, `make verify` many; the same each time.

`tests/conftest.py` loads the profile `few`; `make verify` asks for `many`.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings

FEW, MANY = "few", "many"
MANY_FACTOR = 10
DEFAULT_EXAMPLES = 40

# No example has a deadline: what is slow on a busy machine is not wrong.
settings.register_profile(FEW, deadline=None, derandomize=True, max_examples=DEFAULT_EXAMPLES)
settings.register_profile(MANY, deadline=None, derandomize=True, max_examples=MANY_FACTOR * DEFAULT_EXAMPLES)


def examples(few: int, **more: Any) -> settings:
    """Decorate a property that needs another number than the usual; many are as many times more."""
    times = MANY_FACTOR if settings.get_current_profile_name() == MANY else 1
    return settings(max_examples=few * times, **more)
