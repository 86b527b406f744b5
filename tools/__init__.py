"""Programs and upstreams that tests, benches, dashboards and the chart share. Imports paceline, never tests."""
