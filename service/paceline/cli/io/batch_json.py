"""The body of `POST /v1/batch` and `POST /v1/plan`, made of lines as they were written."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from paceline.cli.flag_parsing import explicit_attempts
from paceline.cli.io.ndjson_reader import InputLine
from paceline.model import Batch


class BatchEncoder:
    """Encodes chunks of one run; the fields that the flags set are encoded once."""

    def __init__(self, batch: Batch) -> None:
        fields: dict[str, object] = {"strategy": batch.strategy, "priority": batch.priority}
        if batch.max_concurrency is not None:
            fields["max_concurrency"] = batch.max_concurrency
        if batch.rate is not None:
            fields["rate"] = {"limit": batch.rate.limit, "per": batch.rate.per_s, "burst": batch.rate.burst}
        attempts = explicit_attempts(batch)
        if attempts is not None:
            fields["retry"] = {"attempts": attempts}
        self._open_object = msgspec.json.encode(fields)[:-1]

    def encode(self, chunk: Sequence[InputLine], deadline_s: float | None) -> bytes:
        """Encode a batch of these items; without a deadline the service's default applies."""
        deadline = b"" if deadline_s is None else b',"deadline":%.3f' % deadline_s
        items = b",".join(_item_json(line) for line in chunk)
        return b"".join((self._open_object, deadline, b',"requests":[', items, b"]}"))


def _item_json(line: InputLine) -> bytes:
    """The line as it was written; one without an id gets its index, as it would in a batch of the whole input."""
    if isinstance(line.item.id, str):
        return line.text
    fields = msgspec.json.decode(line.text, type=dict[str, Raw])
    return msgspec.json.encode({"id": line.id, **fields})
