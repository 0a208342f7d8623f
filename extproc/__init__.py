"""extproc: an Envoy external-processing service that routes LLM inference requests."""

import os

__version__ = "0.1.0"

# gRPC's C core writes to stderr itself, in lines that are not JSON and from the threads that do its handshakes: with a
# log reader that stops reading, anybody who connects without TLS would stop those.  It reads this as it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
