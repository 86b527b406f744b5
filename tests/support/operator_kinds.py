"""Run with .venv-deploy's python: which of the operator's kinds in FILE are as the operator defines them?

Each is read into the operator's model and written out again; what the model does not know is lost on the way, so both
must be equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from cloudcoil.models.prometheus_operator import v1


def main() -> None:
    for document in yaml.safe_load_all(Path(sys.argv[1]).read_text()):
        kind, spec = document["kind"], document["spec"]
        read = getattr(v1, kind).model_validate(document)
        known = read.model_dump(by_alias=True, exclude_none=True, mode="json")["spec"]
        print(f"{kind} {document['metadata']['name']}: {'known' if known == spec else 'has unknown words'}")


if __name__ == "__main__":
    main()
