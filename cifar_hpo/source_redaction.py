"""Passwords that source code and files of settings spell out: `redacted_source` masks them.

They are found by the names that they are given to, by forms that services give their tokens, and by
the lines around a private key. What nothing of that tells of stays.
"""

from __future__ import annotations

import re

from cifar_hpo.redaction import MASK, redacted

SENSITIVE = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|credential|(?:api|access|private|account|auth)_?key"
    r"|(?:^|[_.-])pwd$|token$",
    re.IGNORECASE,
)
WORD_OF_MODELS = re.compile(
    r"(?:^|[_.-])(?:pad|eos|bos|cls|sep|mask|unk|next|last|first|special|class|image)_?token$",
    re.IGNORECASE,
)
"""Tokens of texts and pictures, which are no secrets."""

NAME = r"(?<![\w.-])(?P<name>[\w.-]{1,80})"
"""Tried once for each word, so that a long line takes no longer than its length."""

QUOTED = re.compile(r"(?P<quote>'''|\"\"\"|'|\")(?P<text>(?:\\.|(?!(?P=quote)).)*)(?:(?P=quote)|$)")

PREFIX = re.compile(r"(?<!\w)[rbfu]{1,2}$", re.IGNORECASE)

GIVEN_A_TEXT = re.compile(
    NAME + r"[ \t]*(?:\][ \t]*)?(?::[^=:]{0,60})?(?:=|:|:=|=>)[ \t]*"
    r"(?:[\w.]{1,40}\([ \t]*default[ \t]*=[ \t]*)?$",
    re.IGNORECASE,
)
"""What stands before a text in quotes: `password: str = field(default=`."""

BETWEEN_TEXTS = re.compile(r"[ \t]*\)?\]?[ \t]*(?:=|:|,|:=|=>|or)[ \t]*")
"""What stands between a name in quotes and a text: of a dict, or of `getenv("PASSWORD", "…")`."""

GIVEN = re.compile(NAME + r"(?P<between>[ \t]*(?::=|=>|=)[ \t]*|:[ \t]+)(?P<value>[^\s'\"`]{2,})")
"""A name and what it gets without quotes, in YAML or a shell."""

OPTION = re.compile(r"(?<!\S)--(?P<name>[\w-]{1,80})[ \t]+(?P<value>[^\s'\"`-][^\s'\"`]+)")

NO_PASSWORD = re.compile(
    r"[\d._,;]+|[$<{(\[|&].*|\.{0,2}/.*|.*[(\[].*|[A-Z][a-z]\w*[,)]?|\w+\.[\w.]+[,)]?"
    r"|(?:[Nn]one|null|[Tt]rue|[Ff]alse|[Oo]ptional|str|int|bytes|float|bool|and|or|is|in|not|for)"
    r"(?!\w).*"
)
"""What is no password: numbers, interpolations, paths, calls, types, attributes, keywords."""

PYTHON_NAME = re.compile(r"[A-Za-z_]+[,;)]?")

WELL_KNOWN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
    r"|glpat-(?=[\w-]*\d)[\w-]{20,}|hf_[A-Za-z0-9]{30,}|sk-(?=[\w-]*\d)(?:proj-|ant-)?\w{20,}[\w-]*"
    r"|xox[abprs]-(?=[\w-]*\d)[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)
"""Tokens of services that say so themselves: Amazon, GitHub, GitLab, Hugging Face, OpenAI, Slack,
and those of JSON (RFC 7519)."""

KEY_BEGINS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----")
KEY_IN_A_LINE = re.compile(rf"({KEY_BEGINS.pattern})(?:\\[nr]|[A-Za-z0-9+/=]){{20,}}")
KEY_LINE = re.compile(r"([+\- ]?)[ \t]*(?:[A-Za-z0-9+/=]+|[A-Za-z-]+: [^'\"]*)?\r?")
"""A line of a key, or of the headers before it, perhaps in a diff."""


def redacted_source(text: str) -> str:
    """The text with *** in place of passwords, tokens and private keys, as far as names or forms
    tell of them."""
    lines = []
    is_in_key = False
    for line in redacted(text).split("\n"):
        key = KEY_LINE.fullmatch(line) if is_in_key else None
        if key:
            lines.append(f"{key[1]}{MASK}")
            continue
        is_in_key = bool(KEY_BEGINS.search(line))
        lines.append(_redacted_line(line))
    return "\n".join(lines)


def _redacted_line(line: str) -> str:
    line = KEY_IN_A_LINE.sub(rf"\1{MASK}", WELL_KNOWN.sub(MASK, line))
    parts: list[str] = []
    end = 0
    name_before = ""  # the text in quotes before this one, where it is a name
    for quoted in QUOTED.finditer(line):
        code, prefix = _without_prefix(line[end : quoted.start()])
        end = quoted.end()
        named = GIVEN_A_TEXT.search(code[-200:])
        is_masked = bool(named and _is_sensitive(named["name"]))
        if name_before and BETWEEN_TEXTS.fullmatch(code):
            is_masked = True
        text = quoted["text"]
        name_before = text if re.fullmatch(r"[\w.-]+", text) and _is_sensitive(text) else ""
        parts += _redacted_words(code), prefix
        if is_masked and text:
            name_before = ""
            closing = quoted[0][len(quoted["quote"]) + len(text) :]
            parts.append(f"{quoted['quote']}{MASK}{closing}")
        else:
            parts.append(_redacted_words(quoted[0]))
    parts.append(_redacted_words(line[end:]))
    return "".join(parts)


def _without_prefix(code: str) -> tuple[str, str]:
    """Code before a text in quotes, and the letters that belong to the text: r, b, f and u."""
    prefix = PREFIX.search(code)
    at = prefix.start() if prefix else len(code)
    return code[:at], code[at:]


def _is_sensitive(name: str) -> bool:
    return bool(SENSITIVE.search(name)) and not WORD_OF_MODELS.search(name)


def _redacted_words(text: str) -> str:
    """A text without quotes, or within them, that may be a line of settings or a command."""
    return OPTION.sub(_masked_option, GIVEN.sub(_masked_value, text))


def _masked_option(given: re.Match[str]) -> str:
    return f"--{given['name']} {MASK}" if _is_sensitive(given["name"]) else given[0]


def _masked_value(given: re.Match[str]) -> str:
    """The name with a mask, where it is of a password and what it gets may be one."""
    value = given["value"]
    if not _is_sensitive(given["name"]) or NO_PASSWORD.fullmatch(value):
        return given[0]
    between = given["between"]
    if between.strip() != between and "=" in between and PYTHON_NAME.fullmatch(value):
        return given[0]  # a variable of Python's
    trailing = value[len(value.rstrip(",;)}")) :]
    return f"{given['name']}{given['between']}{MASK}{trailing}"
