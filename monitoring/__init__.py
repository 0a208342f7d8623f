"""A Grafana dashboard and Prometheus rules, generated from here: `make monitoring`."""
