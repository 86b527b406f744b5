"""Run with .venv-deploy's python: are the operator's kinds in FILE as the operator defines them?

Each is read into the operator's model and written out again; what the model does not know is lost on the way, so both
must be equal. Exits 1 with the first that is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from cloudcoil.models.prometheus_operator import v1


def main() -> None:
    for document in yaml.safe_load_all(Path(sys.argv[1]).read_text()):
        kind = document["kind"]
        read = getattr(v1, kind).model_validate(document)
        if read.model_dump(by_alias=True, exclude_none=True, mode="json")["spec"] != document["spec"]:
            sys.exit(f"{kind} {document['metadata']['name']} has what the operator does not know")
        print(f"{kind} {document['metadata']['name']}: ok")


if __name__ == "__main__":
    main()
