"""What `extproc serve` was told on the command line."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from .tls import CertificateFiles


class Options(Struct, frozen=True):
    """The flags of `extproc serve`."""

    config: Path
    grpc_address: str = "0.0.0.0:9002"
    http_address: str = "0.0.0.0:9090"
    log_level: str = "info"
    log_format: str = "json"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_self_signed: bool = False
    drain_delay_s: float = 10.0
    drain_timeout_s: float = 600.0
    http_token_file: Path | None = None
    http_protect_reads: bool = False
    otlp_endpoint: str | None = None
    """Absent: what $OTEL_EXPORTER_OTLP_ENDPOINT says."""
    kubeconfig: Path | None = None
    """Absent: $KUBECONFIG, else the pod's service account, else ~/.kube/config."""

    def certificate_files(self) -> CertificateFiles | None:
        """Where the certificate of the gRPC port is; None: no file was named."""
        if self.tls_cert and self.tls_key:
            return CertificateFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
        return None
