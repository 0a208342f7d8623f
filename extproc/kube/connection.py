"""One HTTP session with the API server: sends with the credentials of the moment, tells failures apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from msgspec import Struct
from yarl import URL

from .credentials import Access, Credentials
from .failures import MAX_DETAIL, Action, Malformed, Unavailable, failure

MERGE_PATCH = "application/merge-patch+json"
"""RFC 7386: the one kind of patch that custom resources take and that needs no schema."""
USER_AGENT = "extproc"
"""What the API server's audit log and its metrics call us."""
MAX_ERROR_BYTES = 64 * 1024
"""Of an error's body; a Status has some hundred bytes."""


class Request(Struct, frozen=True):
    """What to send."""

    action: Action
    method: str
    path: str
    query: dict[str, str] = {}
    body: bytes | None = None


class Connection:
    """`close` it.  What it raises is a KubeError."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open(self, request: Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """A 2xx answer, to be closed; after a 401 asked once more, if the credentials have changed by then."""
        action = request.action
        access, authorization = await self.credentials.access()
        with self._heeded(action):
            answer = await self._send(access, authorization, request, timeout)
        if answer.status == 401:
            self.credentials.refused()
            access, renewed = await self.credentials.access()
            if renewed != authorization:
                answer.close()
                with self._heeded(action):
                    answer = await self._send(access, renewed, request, timeout)
        if 200 <= answer.status < 300:
            return answer
        try:
            with translated(action):
                words = await whole(action, answer, MAX_ERROR_BYTES)
        finally:
            let_go(answer)
        raise failure(action, answer.status, words, answer.headers.get("Retry-After"))

    @contextmanager
    def _heeded(self, action: Action) -> Iterator[None]:
        """As translated; a certificate that does not hold makes us read the authority's file again."""
        with translated(action):
            try:
                yield
            except aiohttp.ClientSSLError:
                self.credentials.refused()
                raise

    async def _send(
        self, access: Access, authorization: str | None, request: Request, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = _session()
        headers = {"Authorization": authorization} if authorization else {}
        if request.body is not None:
            headers["Content-Type"] = MERGE_PATCH if request.method == "PATCH" else "application/json"
        return await self._session.request(
            request.method,
            URL(access.host + request.path, encoded=True),
            params=request.query,
            data=request.body,
            headers=headers,
            ssl=access.tls or True,
            server_hostname=access.server_name,
            proxy=access.proxy,
            timeout=timeout,
            allow_redirects=False,  # the token is for this host
        )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # each watch holds one; what we watch is known and few
        cookie_jar=aiohttp.DummyCookieJar(),
        # Not compressed: within a cluster bandwidth is cheaper than the stalls of unpacking megabytes on our loop.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT},
    )


def let_go(answer: aiohttp.ClientResponse) -> None:
    """The connection serves the next request, unless something of this answer is still to come."""
    if answer.content.at_eof():
        answer.release()
    else:
        answer.close()


@contextmanager
def translated(action: Action) -> Iterator[None]:
    """What goes wrong on the way, as Unavailable."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        said = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        where = f"{error.host}:{error.port}"
        raise Unavailable(f"cannot {action}: the certificate of {where} does not hold: {said}") from None
    except aiohttp.ClientConnectorError as error:
        said = error.os_error.strerror or str(error.os_error)  # its own text names objects of ours
        raise Unavailable(f"cannot {action}: no connection to {error.host}:{error.port}: {said}") from None
    except TimeoutError:
        raise Unavailable(f"cannot {action}: no answer in time") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:MAX_DETAIL]
        raise Unavailable(f"cannot {action}: {said or type(error).__name__}") from None


async def whole(action: Action, answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    length = 0
    while chunk := await answer.content.readany():
        chunks.append(chunk)
        length += len(chunk)
        if length > max_bytes:
            raise Malformed(f"cannot {action}: an answer of more than {max_bytes} bytes")
    return b"".join(chunks)
