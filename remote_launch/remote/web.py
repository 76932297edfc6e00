"""Requests over http and https: through the environment's proxies, with the URL's login kept out of sight."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

_LOGIN = re.compile(r"//(?:[^/\s]*@|[^/\s@:]*:(?!\d+/)\S*@)")  # also a password with an unescaped "/"
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)\Z")
_SAFE = "%/:=&?~#+!$,;'@()*[]"
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(Exception):
    """``kind``: "offline" (the server couldn't be reached, or was lost), "http" (it answered, with
    ``status``, what is of no use), "checksum" or "disk". The message names no login."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__("".join(c if c.isprintable() else "?" for c in masked(message)))
        self.kind = kind
        self.status = status


def shown(url: str) -> str:
    """Return a URL for people: without its login, and without its query, which may be one."""
    solid = "".join(c if c.isprintable() and not c.isspace() else "_" for c in url)
    return re.split("[?#]", masked(solid), maxsplit=1)[0]


def masked(text: str) -> str:
    return _LOGIN.sub("//***@", text)


def is_worth_another_try(error: Exception) -> bool:
    """True for what may pass: a busy server, a lost connection; False for an answer that will not change."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _TRY_AGAIN
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, (ssl.SSLCertVerificationError, http.client.InvalidURL)):
        return False
    return isinstance(reason, (OSError, http.client.HTTPException))


def is_connect_timeout(error: Exception) -> bool:
    return isinstance(error, urllib.error.URLError) and isinstance(error.reason, socket.timeout)


def explained(error: Exception, url: str) -> DownloadError:
    """Given what a request has raised, return it in plain words."""
    if isinstance(error, DownloadError):
        return error
    place = shown(url)
    if isinstance(error, urllib.error.HTTPError):
        return DownloadError("http", f"{place}: HTTP {error.code} {error.reason}"[:300], error.code)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.timeout):
        return DownloadError("offline", f"{place}: no answer in time")
    if isinstance(reason, socket.gaierror):
        return DownloadError("offline", f"{place}: the name can't be resolved ({reason.strerror})")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError("offline", f"{place}: its certificate is not trusted ({reason.verify_message})")
    if isinstance(reason, OSError):
        return DownloadError("offline", f"{place}: {reason.strerror or reason}")
    if isinstance(reason, (ValueError, http.client.InvalidURL)):
        return DownloadError("http", f"{place}: not a URL that can be asked for")  # its text may hold a login
    if isinstance(reason, http.client.HTTPException):
        return DownloadError("offline", f"{place}: the connection was lost ({type(reason).__name__})")
    return DownloadError("offline", f"{place}: {reason}")


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError("http", f"{shown(url)}: only http and https are downloaded")
    login, _, host = parts.netloc.rpartition("@")
    plain = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    headers = {"User-Agent": "remote_launch", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(urllib.parse.quote(plain, safe=_SAFE), headers=headers)
    if login:
        coded = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")  # for this server alone
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, and never from https to http. A login stays with its server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        former, target = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if former.scheme == "https" and target.scheme != "https":
            fp.close()
            raise DownloadError(
                "http", f"{shown(req.full_url)}: redirects from https to {shown(newurl)}: not followed", code
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is None:
            return None
        followed = _request(newurl, dict(request.header_items()))
        login = req.unredirected_hdrs.get("Authorization")
        if login and (former.scheme, former.netloc) == (target.scheme, target.netloc):
            followed.add_unredirected_header("Authorization", login)
        followed.origin_req_host, followed.unverifiable = req.origin_req_host, True
        return followed


class LostError(Exception):
    """A request that failed, by the network's or the server's doing: never the disk's."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def asking(url: str, headers: dict[str, str], timeout_s: float) -> Iterator[Any]:
    """Ask for a URL; give the open answer. Raises LostError, and DownloadError for a URL that is not asked
    for."""
    opener = urllib.request.build_opener(_Redirects())  # reads the environment's proxies
    try:
        answer = opener.open(_request(url, headers), timeout=timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LostError(error) from error
    with answer:
        yield answer


def received(read: Callable[[int], bytes], limit: int) -> bytes:
    """Read from an answer. Raises LostError."""
    try:
        return read(limit)
    except (OSError, http.client.HTTPException) as error:
        raise LostError(error) from error


def version_of(answer: Any) -> str | None:
    """Return what If-Range can ask about."""
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):  # a weak one does not promise the same bytes
        return str(tag)
    return answer.headers.get("Last-Modified") or None


def length_of(answer: Any) -> int | None:
    """Return how many bytes are to come, None when it isn't said."""
    value = answer.headers.get("Content-Length", "")
    return int(value) if value.isascii() and value.isdigit() and not answer.chunked else None


def range_of(answer: Any) -> tuple[int | None, int | None]:
    """Return (first byte, total), as far as the header says."""
    found = _RANGE.match(answer.headers.get("Content-Range", ""))
    if not found:
        return None, None
    start, total = found.groups()
    return (int(start) if start else None), (int(total) if total != "*" else None)
