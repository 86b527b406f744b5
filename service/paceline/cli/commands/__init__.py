"""One file a command: its flags and its help text. A flag is added here and nowhere else.

May import at the top: typer and `paceline.model`. A body is imported when its command runs, so that `--help` is quick.
Start reading: `shared_flags.py`, then `run.py`.
"""
