"""Renews the certificate of the gRPC port without a restart: new connections get it, open streams go on.

The files are read, not watched: a Secret is swapped by renaming a link two levels up.
"""

from __future__ import annotations

import asyncio
import datetime

import grpc
from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge

from .logs import Logger
from .tls import CertificateFault, CertificateFiles

INTERVAL_S = 1.0
"""As for the config file; certificates are renewed days before they end."""


class CertificateWatcher:
    """Shows the certificate of *files*, and the next one once it is whole and valid."""

    def __init__(self, files: CertificateFiles, registry: CollectorRegistry, log: Logger) -> None:
        """Raises OSError, or CertificateFault where the files hold no certificate to begin with.

        One that has expired will do: there are gateways that look at no dates.
        """
        self._files = files
        self._log = log
        self._successful = Gauge(
            "extproc_tls_last_reload_successful",
            "1 if the certificate files in place are in force.",
            registry=registry,
        )
        self._expiry = Gauge(
            "extproc_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in force ends.",
            registry=registry,
        )
        self._in_force = files.read()
        self._fresh: grpc.ServerCertificateConfiguration | None = None
        """For the next connection."""
        self._fault: str | None = None
        """Of the files as they were last seen."""
        self._told: str | None = None
        identity = files.check(self._in_force)
        self._configuration = identity.configuration
        self._begin(identity.leaf)
        try:
            self._check_dates(identity.leaf)
        except CertificateFault as fault:
            log.warning("certificate_out_of_date", fault=str(fault))

    def credentials(self) -> grpc.ServerCredentials:
        """For the port."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self._fetch,  # type: ignore[arg-type]  # the stubs know nothing of None
            require_client_authentication=self._files.client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks in a thread of its own, before each handshake; None: nothing is new."""
        fresh, self._fresh = self._fresh, None
        return fresh

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Compare the files with what is in force."""
        try:
            read = await asyncio.to_thread(self._files.read)
            if read != self._in_force:
                identity = await asyncio.to_thread(self._files.check, read)
                self._check_dates(identity.leaf)
                self._in_force, self._fresh = read, identity.configuration
                self._begin(identity.leaf)
                self._log.info("certificate_renewed", expires=identity.leaf.not_valid_after_utc.isoformat())
            self._fault = self._told = None
            self._successful.set(1)
        except (OSError, CertificateFault) as error:
            self._fail(str(error))
        except Exception as error:  # whatever is wrong with a new certificate, the old one is good
            self._fail(f"{type(error).__name__}: {error}")

    def _begin(self, leaf: x509.Certificate) -> None:
        self._successful.set(1)
        self._expiry.set(leaf.not_valid_after_utc.timestamp())

    def _fail(self, fault: str) -> None:
        """What is so at two looks in a row is no renewal that is under way, file after file."""
        lasting, self._fault = fault == self._fault, fault
        if lasting and fault != self._told:
            self._told = fault
            self._successful.set(0)
            self._log.error("certificate_reload_failed", fault=fault)

    def _check_dates(self, leaf: x509.Certificate) -> None:
        now, chain = datetime.datetime.now(datetime.UTC), self._files.chain
        if leaf.not_valid_after_utc <= now:
            raise CertificateFault(
                f"{chain}: the certificate ended at {leaf.not_valid_after_utc.isoformat()}"
            )
        if leaf.not_valid_before_utc > now:
            begins = leaf.not_valid_before_utc.isoformat()
            raise CertificateFault(f"{chain}: the certificate begins only at {begins}")
