"""Passwords in text: `has_secret` finds them in URIs, `redacted` writes a text without them.

Where text leaves this program, on a terminal, in logs, in a database or in MLflow, it is redacted.
"""

from __future__ import annotations

import functools
import os
import re
from urllib.parse import unquote

MASK = "***"

URI = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,80})://([^\s'\"<>]*)")
URI_ALONE = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://(.*@.*)", re.DOTALL)
QUERY = re.compile(
    r"([?&;](?:[a-z_-]*(?:password|passwd|passcode|pwd|secret|token|signature|"
    r"(?:api|access|private)_?key)|sig|odbc_connect)=)([^&;#\s'\"]+)",
    re.IGNORECASE,
)
ODBC_PASSWORD = re.compile(r"\bPWD=([^;]+)", re.IGNORECASE)
HOST_AND_PORT = re.compile(r"[^@:/]*:\d+")
INTERPOLATION = re.compile(r"\$\{[^{},]*\}")
"""An interpolation without a default: a password that stands elsewhere."""
TOKEN_SCHEMES = ("http", "https")
"""Schemes in which a name alone before the host is a token."""

SECRET_VARIABLE = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|CREDENTIAL", re.IGNORECASE)
MIN_SECRET = 6
"""Characters of the shortest password that is masked wherever it stands; a shorter one may be a
word. In a URI every password is masked."""


def has_secret(text: str) -> bool:
    """Whether a URI in this text spells out a password or a token.

    One that an interpolation such as `${oc.env:NAME}` stands for is not spelled out.
    """
    return bool(_secrets_in(INTERPOLATION.sub("", text)))


def redacted(text: str) -> str:
    """The text with *** in place of the passwords and tokens of its URIs, and of those that this
    process has in its environment.

    A password is looked for where SQLAlchemy and MLflow take one: before the host, also where it
    has characters that should be quoted there, and in the query.
    """
    text = URI.sub(lambda uri: _redacted_uri(uri[1], uri[2], []), text)
    secrets = _pattern(frozenset(os.environ.items()))
    return secrets.sub(MASK, text) if secrets else text


def redacted_uri(uri: str) -> str:
    """A text that is a URI without its password, also where that has blanks or quotes, at which
    URIs end in other texts."""
    alone = URI_ALONE.fullmatch(uri)
    return redacted(_redacted_uri(alone[1], alone[2], []) if alone else uri)


@functools.lru_cache(maxsize=4)
def _pattern(environment: frozenset[tuple[str, str]]) -> re.Pattern[str] | None:
    """Finds the passwords of an environment as whole words; None where it has none.

    Drivers quote parts of a URI that they could not parse, so the parts count too.
    """
    secrets: set[str] = set()
    for name, value in environment:
        if "://" in value:
            found = [secret for secret in _secrets_in(value) if value.count(secret) == 1]
        else:
            found = [value] if SECRET_VARIABLE.search(name) else []
        for secret in found:
            secrets.update((secret, unquote(secret), *re.split("[/@?#:]", secret)))
    words = sorted((word for word in secrets if len(word) >= MIN_SECRET), key=len, reverse=True)
    if not words:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")


def _secrets_in(text: str) -> list[str]:
    """The passwords and tokens of the URIs in a text, which may be one with blanks or quotes."""
    found: list[str] = []
    alone = URI_ALONE.fullmatch(text)
    if alone:
        _redacted_uri(alone[1], alone[2], found)
    else:
        URI.sub(lambda uri: _redacted_uri(uri[1], uri[2], found), text)
    return found


def _redacted_uri(scheme: str, rest: str, found: list[str]) -> str:
    """The URI with masks; found: takes what they stand for."""

    def masked(secret: str) -> str:
        if secret != MASK:
            found.append(secret)
            found.extend(ODBC_PASSWORD.findall(unquote(secret)))
        return MASK

    rest = QUERY.sub(lambda query: query[1] + masked(query[2]), rest)
    userinfo, is_there, host = rest.rpartition("@")
    if is_there and _is_userinfo(userinfo):
        name, colon, password = userinfo.partition(":")
        if colon and password:
            userinfo = f"{name}:{masked(password)}"
        elif scheme.lower() in TOKEN_SCHEMES and userinfo:
            userinfo = masked(userinfo)
        rest = f"{userinfo}@{host}"
    return f"{scheme}://{rest}"


def _is_userinfo(text: str) -> bool:
    """Whether what stands before an @ belongs to it, and is no host with a path that has one."""
    authority, *behind = re.split(r"[/?]", text, maxsplit=1)
    if not behind:
        return True
    return bool(authority) and ":" in authority and not HOST_AND_PORT.fullmatch(authority)
