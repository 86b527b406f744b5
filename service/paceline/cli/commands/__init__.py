"""One file a command: its flags and its help text. A flag that describes a batch is also read in `cli/flag_parsing.py`.

May import at the top: typer and `paceline.model`. A body is imported when its command runs, so that `--help` is quick.
Start reading: `shared_flags.py`, then `run.py`.
"""
