"""The main comparison in real time: simulated model servers behind a real Envoy (`make bench-live`)."""
