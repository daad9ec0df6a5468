"""Masking: secret values are replaced by `***` in whatever a host says.

A value is found as it is and in the forms in which programs print it: escaped in JSON or a URL,
in base64, in HTML, and line by line. A short value would be found in innocent text, so there is
none. Texts are shortened before they are masked, so what stands before the sign of a cut may end
with the beginning of a value, which is masked, too.
In what hosts say, what is a secret by its form is masked, too: the server may not know it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_SECRET, LONGEST_SECRET = 6, 4096
#: Named secrets and secret parameters of one run: masking reads a text once for each form of each.
MOST_SECRETS = 50
#: `scheme://user:` before a password; JSON may escape the slashes.
_USER = r"(:(?:\\?/){2}[^\s/?#@:\"'<>\\]*:)"
_IN_URL = re.compile(_USER + r"[^\s/?#\"'<>]+@")
_URL_AT_END = re.compile(_USER + r"[^\s/?#\"'<>@]*\Z")
#: A signed token, such as those of users and of Supabase: JSON in base64, and a signature. It
#: begins where no other one could go on, and gives nothing back (`+`): else the time for
#: `-eyJ-eyJ…` was the square of its length.
_SIGNED = re.compile(r"eyJ(?<![\w-]eyJ)[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]{16,}+")
#: A variable and its value, from where its name says that it is secret: this finds its place fast,
#: and `_VARIABLE` looks at what is before. One pattern for both tries each quote of a long text.
_IN_ENVIRONMENT = re.compile(
    r"((?:_PWD|PASSWORD|PASSWD|SECRET|_TOKEN|API_KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|_ROLE_KEY"
    r"|_ANON_KEY)(?:=|['\"]: ?)['\"]?)[^\s'\",;]+"
)
_VARIABLE = re.compile(r"(?:^|[\s'\"{,;])[A-Z0-9_]*\Z", re.MULTILINE)
_LONGEST_NAME = 200  # characters of a variable's name before that
_LINES = 64  # of a value that are masked one by one
#: What stands where a text was shortened, as it is and inside JSON: `CUT` and `shortened` of
#: vpt/dialects/base.py.
_CUTS = ("\n[cut at 1 MiB]", r"\n[cut at 1 MiB]", "…", r"\u2026")
#: Texts and signs before the end that are looked at: vpt cuts a text once or twice, and a host may
#: send a million signs, each of which would be compared with each form of each value.
_MOST_CUTS = 128
_GROUP = 3  # bytes that base64 writes as four characters


class Masker:
    """Replaces these values in texts; one without values returns what it is given."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value)}
        # The longest first: a form may be part of another one.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def __bool__(self) -> bool:
        """Return whether there is something to mask."""
        return bool(self._forms)

    def __eq__(self, other: object) -> bool:
        """Return whether both mask the same."""
        return isinstance(other, Masker) and self._forms == other._forms

    __hash__ = None  # type: ignore[assignment]

    def text(self, text: str) -> str:
        """Return the text with `***` in place of each value, and of what is left of one cut."""
        if not self:
            return text
        for form in self._forms:
            text = text.replace(form, MASK)
        return self._with_ends_cut(text)

    def _with_ends_cut(self, text: str) -> str:
        """Return the text with the end masked of each part that stands before a sign of a cut."""
        # From the end on, and by plain searches: a pattern of all signs takes ten times as long.
        places = {sign: place for sign in _CUTS if (place := text.rfind(sign)) >= 0}
        parts: list[str] = []
        end = len(text)
        while places and len(parts) < _MOST_CUTS:
            sign = max(places, key=places.__getitem__)
            place = places.pop(sign)
            part = text[place + len(sign) : end]
            parts += [self.cut_end(part) if parts else part, sign]
            end = place
            if (earlier := text.rfind(sign, 0, place)) >= 0:
                places[sign] = earlier
        parts.append(self.cut_end(text[:end]) if parts else text)
        return "".join(reversed(parts))

    def cut_end(self, text: str) -> str:
        """Return the beginning of a text without the part of a value that it may end with."""
        longest = max((_overlap(text, form) for form in self._forms), default=0)
        return text[:-longest] + MASK if longest else text

    def json(self, item: Any) -> Any:
        """Return a JSON value with its texts masked, keys too."""
        if not self:
            return item
        match item:
            case str():
                return self.text(item)
            case dict():
                return {self.text(key): self.json(child) for key, child in item.items()}
            case list():
                return [self.json(child) for child in item]
        return item


class HostMasker(Masker):
    """Masks what a host says: these values, and what is a secret by its form.

    That is the password of a URL, a signed token, and the value of an environment's variable whose
    name says that it is secret: programs print them, and a host's token is in its server's URL.
    """

    def __bool__(self) -> bool:
        """Return True: any text may have such a secret."""
        return True

    def text(self, text: str) -> str:
        """Return the text with `***` in place of each secret."""
        text = super().text(text)
        if "://" in text or ":\\/\\/" in text:
            text = _IN_URL.sub(rf"\1{MASK}@", text)
        if "eyJ" in text:
            text = _SIGNED.sub(MASK, text)
        if "=" in text or ":" in text:
            text = _IN_ENVIRONMENT.sub(_without_value, text)
        return text

    def cut_end(self, text: str) -> str:
        """Return the beginning of a text without the part of a secret that it may end with."""
        return _URL_AT_END.sub(rf"\1{MASK}", super().cut_end(text))


def _without_value(found: re.Match[str]) -> str:
    start = found.start()
    is_variable = _VARIABLE.search(found.string, max(0, start - _LONGEST_NAME), start)
    return found[1] + MASK if is_variable else found[0]


def _overlap(text: str, form: str) -> int:
    """Return how many characters of `form` stand at the end of `text`, 0 when few do."""
    tail, start = text[-(len(form) - 1) :], -1
    while (start := tail.find(form[:_GROUP], start + 1)) >= 0:
        if form.startswith(tail[start:]):  # the first one is the longest
            return len(tail) - start
    return 0


def _forms(value: str) -> Iterator[str]:
    """Yield the value and its escaped forms, those that are long enough to be nothing else."""
    # A few lines of each, and as they are: the work is bounded, whatever the values are.
    lines = (value.strip(), *value.splitlines()[:_LINES])
    yield from (line for line in lines if len(line) >= SHORTEST_SECRET)
    yield from (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (html.escape(value), html.escape(value, quote=False))
    raw = value.encode(errors="surrogatepass")
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield from (quoted, _lower_hex(quoted))
    yield from _base64_forms(raw)


def _lower_hex(quoted: str) -> str:
    first, *rest = quoted.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _base64_forms(value: bytes) -> Iterator[str]:
    """Yield how base64 writes the value, alone and inside something, as in `user:password`.

    Inside, it depends on how many bytes stand before; the characters at the ends, which are made
    of its neighbours, too, are left out.
    """
    for before in range(_GROUP):
        whole = (before + len(value)) // _GROUP * _GROUP - before
        start = (_GROUP - before) % _GROUP
        inner = value[start:whole]
        if len(inner) >= SHORTEST_SECRET - 2:
            yield from _encodings(inner)
    yield from (form.rstrip("=") for form in _encodings(value))


def _encodings(value: bytes) -> tuple[str, str]:
    return base64.b64encode(value).decode(), base64.urlsafe_b64encode(value).decode()
