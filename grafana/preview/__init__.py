"""Pictures of the dashboards with live figures, drawn by Grafana's own components in a headless browser."""
