"""The command line: flags and help in `commands/`, each body in a file here that is named for what it does.

May import: everything below it in the layers (`demo`, `app`, `api`, `batch`...); nothing in the service imports it.
Start reading: `commands/run.py`, then `run_file.py` and its backends, `local_backend.py` and `remote_backend.py`.
"""
