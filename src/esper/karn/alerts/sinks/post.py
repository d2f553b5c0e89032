"""HTTP POST requests whose error messages do not contain the URL."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

from esper.karn.alerts.sinks.sink import SinkError
from esper.leyline.version import VERSION

#: Timeout for the connection and for the response, in seconds.
POST_SECONDS: Final = 10.0
_LONGEST_WAIT: Final = 3600.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # urllib would follow with a GET without the message, and report success.
    def redirect_request(self, *_args: object, **_more: object) -> None:
        return None


def post(url: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Send a POST request; return "HTTP 200".

    Args:
        url: the destination; may contain a secret.
        body: the request body.
        headers: headers in addition to User-Agent.

    Raises:
        SinkError: there was no response, or its status was not 2xx.
    """
    agent = {"User-Agent": f"esper-alert/{VERSION}"}
    try:
        request = urllib.request.Request(url, body, {**agent, **headers}, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=POST_SECONDS) as answer:
            answer.read(1 << 16)
            return f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error) from None
    except urllib.error.URLError as error:
        raise SinkError(f"no response: {_reason(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The message of the error may contain the URL.
        raise SinkError(f"no response: {_reason(error)}") from None


def _refused(error: urllib.error.HTTPError) -> SinkError:
    wait = error.headers.get("Retry-After", "") if error.headers is not None else ""
    seconds = min(float(wait), _LONGEST_WAIT) if wait.isdecimal() else 0.0
    words = http.client.responses.get(error.code, "")
    if 300 <= error.code < 400:
        words = "the URL redirects; use the URL that it redirects to"
    return SinkError(f"HTTP {error.code} {words}".strip(), seconds)


def _reason(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"nothing arrived within {POST_SECONDS:.0f} s"
    if isinstance(reason, ssl.SSLError):
        return f"TLS failed ({reason.reason or 'unknown reason'})"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__
