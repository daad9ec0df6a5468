"""Why a host cannot be reached, or is not taken for itself: a kind, and words for people.

The words never name the host's URL, which not everybody may see, and stay the same from one probe
to the next, so that a host is not logged and stored as changed while it is not.
"""

from __future__ import annotations

import errno
import ssl

import aiohttp

from vpt.model import HostTrouble, TroubleKind

CREDENTIAL_STATUSES = (401, 403)
CONNECTION_REFUSED = "connection refused"
MISDIRECTED = 421  # the host is not the one that the request names

_NO_ANSWER_FROM_NETWORK = frozenset(
    (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
)


def reason_of(error: BaseException) -> HostTrouble:  # noqa: PLR0911 (a table)
    """Return why a request failed that brought no response; the order counts: classes overlap."""
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return HostTrouble(TroubleKind.CERTIFICATE, _certificate(error))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return HostTrouble(TroubleKind.NAME, _name(error))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return HostTrouble(TroubleKind.TIMEOUT, "no connection in time")
    if isinstance(error, TimeoutError):
        return HostTrouble(TroubleKind.TOO_SLOW, "connected, but no answer in time")
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return _connection(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return HostTrouble(TroubleKind.REFUSED, "the connection was closed within the answer")
    return HostTrouble(TroubleKind.STATUS, "the answer is not valid HTTP")


def reason_of_status(status: int) -> HostTrouble:
    """Return why a host is not taken for well that answers with this status, which is no 2xx."""
    if status in CREDENTIAL_STATUSES:
        words = f"answers {status}: it does not accept the secret or key that vpt sends"
        return HostTrouble(TroubleKind.CREDENTIAL, words)
    if status == MISDIRECTED:
        words = f"answers {status}: another host answers at its URL"
        return HostTrouble(TroubleKind.SOMEBODY_ELSE, words)
    if status // 100 == 3:  # noqa: PLR2004
        words = f"answers {status}: a redirect, which vpt does not follow"
        return HostTrouble(TroubleKind.REDIRECT, words)
    return HostTrouble(TroubleKind.STATUS, f"answers {status}")


def reason_of_key(status: int, *, is_sent: bool) -> HostTrouble:
    """Return why a host refuses its calls that needs the key of the lab, and what to set."""
    what = "it does not accept the API key that vpt sends" if is_sent else "vpt has no API key"
    words = f"answers {status}: {what}. Set API_KEY, or the host's api_key, to the host's API_KEY"
    return HostTrouble(TroubleKind.CREDENTIAL, words)


def _certificate(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(cause, "verify_message", None)
    if words:
        return f"certificate not trusted: {words}"
    return f"no TLS connection: {getattr(cause, 'reason', None) or type(cause).__name__}"


def _name(error: aiohttp.ClientConnectorDNSError) -> str:
    if isinstance(error.os_error.errno, int):
        return f"its name is not known: {error.os_error.strerror}"
    return "its name leads to addresses where no host may be"


def _connection(error: aiohttp.ClientConnectionError | OSError) -> HostTrouble:
    reason = getattr(error, "os_error", None) or error
    number = getattr(reason, "errno", None)
    if number in _NO_ANSWER_FROM_NETWORK:
        return HostTrouble(TroubleKind.TIMEOUT, _system_words(number))
    if number == errno.ECONNREFUSED:
        return HostTrouble(TroubleKind.REFUSED, CONNECTION_REFUSED)
    if isinstance(error, aiohttp.ClientConnectorError):
        words = getattr(reason, "strerror", None)
        return HostTrouble(TroubleKind.REFUSED, words or "no connection")
    return HostTrouble(TroubleKind.REFUSED, "the connection was closed without an answer")


def _system_words(number: int | None) -> str:
    words = errno.errorcode.get(number or 0, "")
    known = {"ETIMEDOUT": "no connection in time"}
    return known.get(words, "no route to the host")
