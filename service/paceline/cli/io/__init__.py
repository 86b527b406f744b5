"""Input and output of a run: items read from NDJSON, outcomes written as lines, and the client of a running service.

May import: `batch`, `model` and `units`, and the usage errors and flags of `cli`; neither `commands/` nor `ui/`.
Start reading: `ndjson_reader.py` for what comes in, `output_writer.py` for what goes out.
"""
