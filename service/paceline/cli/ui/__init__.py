"""What a person sees: progress, tables, the plot of a comparison and the report of the demo. Text only, no requests.

May import: result types of `batch` and `demo`, `units`, and the totals of `cli/io`; rich, and nothing else, draws.
Start reading: `table.py`, then `compare_report.py`.
"""
