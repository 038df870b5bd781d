"""Passwords in text: `has_secret` finds them in URIs, `redacted` writes a text without them.

Where text leaves this program, on a terminal, in logs, in a database or in MLflow, it is redacted.
"""

from __future__ import annotations

import re

MASK = "***"

URI = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>]*)")
QUERY = re.compile(
    r"([?&;](?:[a-z_]*(?:password|passwd|pwd|secret|token|api_?key)|odbc_connect)=)([^&;#\s'\"]+)",
    re.IGNORECASE,
)
HOST_AND_PORT = re.compile(r"[^@:/]*:\d+")
TOKEN_SCHEMES = ("http", "https")
"""Schemes in which a name alone before the host is a token."""


def has_secret(text: str) -> bool:
    """Whether a URI in this text carries a password or a token."""
    return redacted(text) != text


def redacted(text: str) -> str:
    """The text with *** in place of the passwords and tokens of its URIs.

    A password is looked for where SQLAlchemy and MLflow take one: before the host, also where it
    has characters that should be quoted there, and in the query.
    """
    return URI.sub(lambda uri: _redacted_uri(uri[1], uri[2]), text)


def _redacted_uri(scheme: str, rest: str) -> str:
    rest = QUERY.sub(lambda found: found[1] + MASK, rest)
    userinfo, is_there, host = rest.rpartition("@")
    if is_there and _is_userinfo(userinfo):
        name, colon, password = userinfo.partition(":")
        if colon and password:
            userinfo = f"{name}:{MASK}"
        elif scheme.lower() in TOKEN_SCHEMES and userinfo:
            userinfo = MASK
        rest = f"{userinfo}@{host}"
    return f"{scheme}://{rest}"


def _is_userinfo(text: str) -> bool:
    """Whether what stands before an @ belongs to it, and is no host with a path that has one."""
    authority, *behind = re.split(r"[/?]", text, maxsplit=1)
    if not behind:
        return True
    return bool(authority) and ":" in authority and not HOST_AND_PORT.fullmatch(authority)
