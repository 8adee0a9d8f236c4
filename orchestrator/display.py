"""Make text from outside safe to show: no secrets, no control characters, no endless values."""

from __future__ import annotations

import re
import unicodedata

WORD_AT_MOST = 300  # in a message; the middle of a longer word is cut out
MESSAGE_AT_MOST = 4000
HIDDEN = "***"
# Names of secret values, such as TOKEN, api_key, X-Amz-Signature.
SECRET = r"[\w.-]*(?:secret|token|passw|pwd|api_?key|access_?key|private_?key|signature|credential)[\w.-]*"

_AFTER_SCHEME = re.compile(r"://[^\s'\"<>]*")
_HOST = re.compile(r"[^:]*(:\d*)?|\[[0-9A-Fa-f:.]*\](:\d*)?")
_SECRET_QUERY = re.compile(rf"(?i)([?&;](?:{SECRET}|auth|sig|key|pass)=)[^&;#\s'\"]+")
_ODD = re.compile(r"[^\x20-\x7e\n\t]")
_LONG = re.compile(rf"\S{{{WORD_AT_MOST + 1},}}")


def address(text: str) -> str:
    """A text without the passwords, tokens and other secrets in its URLs."""
    return _AFTER_SCHEME.sub(_hidden, text) if "://" in text else text


def _hidden(match: re.Match[str]) -> str:
    rest = match[0][3:]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    web = match.string[: match.start()].lower().endswith(("http", "https"))
    if "@" in host:
        rest = f"{HIDDEN}@{host.rpartition('@')[2]}{rest[len(host) :]}"
    elif "@" in rest and ":" in host and not (web and _HOST.fullmatch(host)):  # a password with / ? or # in it
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return "://" + _SECRET_QUERY.sub(rf"\1{HIDDEN}", rest)


def visible(text: str) -> str:
    """Text with control, bidirectional and other invisible characters escaped; line breaks and tabs stay."""
    return _ODD.sub(_escaped, text) if _ODD.search(text) else text


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def brief(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[:most]}..."


def message(text: str) -> str:
    """The text of an error, as shown to users."""
    text = visible(_LONG.sub(lambda word: f"{word[0][:200]}...{word[0][-60:]}", address(text)))
    return text if len(text) <= MESSAGE_AT_MOST else f"{text[: MESSAGE_AT_MOST - 1000]} ... {text[-900:]}"
