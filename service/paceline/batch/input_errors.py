"""What is wrong with a batch, or with one of its items, as a caller wrote it: in a body, on a line or by flags.

    InputError
    +-- MalformedInput   not JSON that can be read    HTTP: 400 not_json
    +-- FieldError       a field, or its value        HTTP: 422 invalid
    +-- TooManyItems     more than one batch takes    HTTP: 413 too_large

`describe` gives each as one sentence. The HTTP API puts it into a problem document, `paceline run` into the outcome of
the line, and the commands behind the name of the flag, so that the same mistake has the same words everywhere.
"""

from __future__ import annotations

WHOLE_BODY = "the body"
"""The name of a whole that came as a request's body."""


class InputError(ValueError):
    """Input that cannot be used. `field` is where to look, as in `requests[3].timeout`; empty for the whole."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem
        """What is wrong and what to do, without the field's name."""

    def __str__(self) -> str:
        return self.describe()

    def describe(self, whole: str = WHOLE_BODY) -> str:
        """The sentence. `whole` names what was read, for a mistake that lies in no field of it."""
        return f"{self.field or whole} {self.problem}"


class MalformedInput(InputError):
    """Bytes that are not JSON that can be read."""

    def __init__(self, problem: str) -> None:
        super().__init__("", problem)


class FieldError(InputError):
    """A field that cannot be used."""

    def with_prefix(self, prefix: str) -> FieldError:
        """The same error, seen from the object that holds the field's own."""
        return FieldError(f"{prefix}.{self.field}", self.problem)


class TooManyItems(InputError):
    """More items than one batch may have."""

    def __init__(self, count: int, max_items: int) -> None:
        problem = f"{count} items are more than the {max_items} of one batch; send several, or raise server.max_items"
        super().__init__("requests", problem)

    def describe(self, whole: str = WHOLE_BODY) -> str:
        return self.problem
