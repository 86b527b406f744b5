"""Paceline's dashboards as code: `python -m grafana` writes grafana/dashboards, `--check` says if they are fresh."""
