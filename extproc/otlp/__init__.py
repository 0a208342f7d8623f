"""Traces and metrics over OTLP (OpenTelemetry).  Only `settings` may be imported where nothing is configured: the
rest needs the packages of the extra `otlp`."""
