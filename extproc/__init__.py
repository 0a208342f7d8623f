"""extproc: an Envoy external-processing service that routes LLM inference requests."""

__version__ = "0.1.0"
