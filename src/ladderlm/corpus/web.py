"""Request a file, or facts about one, from a web server.

Owns headers, redirects, where the hub's token may go, and the facts read from an answer. Stores
nothing and retries nothing (`transfer.py` does).
"""

import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "PROBE_TIMEOUT_SECONDS",
    "UNKNOWN",
    "Remote",
    "ask_server",
    "hub_endpoint",
    "open_url",
    "total_of",
]

PROBE_TIMEOUT_SECONDS = 10.0


def hub_endpoint() -> str:
    """Return the address of the Hugging Face hub; `HF_ENDPOINT` names a mirror of it."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class Remote:
    """Facts that a server reports about a file before sending it; None if it does not.

    Args:
        n_bytes: length.
        sha256: of the content, which the hub knows for every large file.
        version: changes when the file does.
    """

    n_bytes: int | None
    sha256: str | None
    version: str | None


UNKNOWN = Remote(None, None, None)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that keep the method, and give the token to no other host."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.get_method() == "HEAD" and headers.get("X-Linked-Etag"):
            return None  # the hub has reported all; the storage behind it may refuse HEAD
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            new.method = req.get_method()
            _add_token(new)
        return new


def _add_token(request: urllib.request.Request) -> None:
    token, hub = os.environ.get("HF_TOKEN"), urlsplit(hub_endpoint())
    asked = urlsplit(request.full_url)
    if token and (asked.scheme, asked.netloc) == (hub.scheme, hub.netloc):
        request.add_unredirected_header("Authorization", f"Bearer {token.strip()}")


def open_url(
    url: str, headers: dict[str, str] | None = None, method: str = "GET", timeout: float = 30.0
) -> Any:
    """Send one request and return the answer, whose body is still to be read.

    `HF_TOKEN` goes to the hub alone. Proxies are taken from the environment.

    Raises:
        urllib.error.HTTPError: the server answers with an error.
        OSError, http.client.HTTPException: it does not answer.
        ValueError: `url` is not a URL.
    """
    own = {"User-Agent": "ladderlm", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=own | (headers or {}), method=method)
    _add_token(request)
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


def ask_server(url: str) -> Remote | None:
    """Return the facts that a server reports about a file; None if it has no such file.

    Raises:
        OSError, http.client.HTTPException: the server does not answer.
    """
    try:
        with open_url(url, method="HEAD", timeout=PROBE_TIMEOUT_SECONDS) as answer:
            headers = answer.headers
            if "text/html" in (headers.get("Content-Type") or ""):
                return None
    except urllib.error.HTTPError as error:
        error.close()
        headers = error.headers
        if not headers.get("X-Linked-Etag"):
            return None
    linked = (headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"').lower()
    length = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    tag = headers.get("ETag") or ""
    return Remote(
        n_bytes=int(length) or None if length.isdigit() else None,  # some answer 0 to HEAD
        sha256=linked if re.fullmatch("[0-9a-f]{64}", linked) else None,
        version=linked or (None if tag.startswith("W/") else tag.strip('"') or None),
    )


def total_of(content_range: str | None) -> int | None:
    """Return the length of a whole file from a header such as `bytes */12345`."""
    tail = (content_range or "").rpartition("/")[2]
    return int(tail) if tail.isdigit() else None
