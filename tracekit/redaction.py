"""Masks secrets in text and in JSON values, so that no trace, log, error or report contains one.

`redact` looks for the places where a secret stands: behind a name (`password=`, `"token": `, `--api-key `),
in a header, between tags, or in a text of a known shape. It notes every such place before it masks any, so a
value that contains the next name hides nothing. When it is unclear where a secret ends, more is masked, not
less. URIs in columns are the subject of `uri.clean`, which leaves no query at all.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

__all__ = ["CONTAINER_BEFORE_ACCOUNT", "is_secret_name", "redact", "redact_value"]

CONTAINER_BEFORE_ACCOUNT = r"abfss?://[a-z0-9$][a-z0-9-]{0,62}@[a-z0-9]+\.(?:dfs|blob)\."
"""How a URI of Azure begins whose "user" is a container, which is no secret."""

_MASK = "***"

_BEGIN = r"(?:(?<![a-z0-9])|(?<=%26)|(?<=%3f)|(?<=%2526)|(?<=%253f))"
"""Where a short name may begin: not within a word, but behind `&` and `?` also as URLs encode them."""
_WORDS = (
    r"signature|credential|(?<!/etc/)passwd|password|passphrase|passcode|secret|token|authorization|cookie|"
    r"connection[_-]?string|"
    r"(?:api|access|account|secret|private|storage|shared|auth|signing|encryption|customer|master|subscription)"
    rf"[_-]?key(?:[_-]?id)?|(?:(?<=_)|store|key|ssh)pass|{_BEGIN}(?:sig|pwd|pw|sas|jwt)"
)
"""The ends of names that stand for secrets: `password`, and with it `DB_PASSWORD` and `my-password`."""
_NUMBER = r"(?:[_-]?\d{1,4})?(?:[_-](?:value|plain|base64|b64))?(?!\w)"
_PLURAL = r"(?:(?:signature|credential|password|secret|key)s|(?<![a-z0-9])(?:pass|bearer))(?!\w)"
"""Names that also are words of messages."""
_NAME = rf"[\w-]*?(?:(?:{_WORDS}){_NUMBER}|{_PLURAL})"
_SECRET_KEY = rf"(?i){_NAME}"
_SECRET_FLAG = rf"(?i)--?{_NAME}"
_SECRET_WORD = rf"(?is)((?:--?)?{_NAME}=).+"
"""An element of a command line that is a name and its value, which may hold blanks."""
_LOGIN_FLAG = re.compile(r"-[uU]|--(?:(?:proxy-)?user|auth)")
_LOGIN = re.compile(r"(?s)([^:]+:)(?!\d+$|//).+")

_ASSIGNED = r"(?:\\*['\"]|%22|%27)?\s*(?:=>|:=|[=:]|%(?:25)*3[ad])"
_REASONS = "|".join(
    [
        *sorted({re.escape(os.strerror(number)) for number in range(1, 134)}),
        *("no such", "no file matches", "nothing found", "already exists", "access denied"),
    ]
)
"""What messages say of a file: behind its name and a colon it is no secret."""

_QUOTED = r"(?:\\+(?P<quote>['\"]).*?(?:\\+(?P=quote)|$)|'(?:[^'\\]|\\.)*(?:'|$)|\"(?:[^\"\\]|\\.)*(?:\"|$))"
"""A quoted text: with escapes inside, itself escaped (JSON in JSON), or cut short."""

_SCHEME = r"(?:bearer|basic|token|digest|negotiate|sharedkey|aws4-hmac-sha256)"
_OPENING = re.compile(rf"{_SCHEME}\s|[\[({{]*\s*[bfru]{{0,2}}\\*['\"]", re.IGNORECASE)
"""How a secret begins that may go on where one without a quote would end."""

_OPTIONS = r"\s[^\r\n]{0,400}?(?<!\S)"
"""What may stand between a program and one of its options."""
_ARGUMENT = rf"(?:{_QUOTED}|[^\s'\"\\]|\\.)+"
_SAMBA = (
    rf"(?<![\w-])(?:smb\w+|rpcclient|winexe|net\s+(?:ads|rpc)){_OPTIONS}"
    r"(?:(?-i:-U)\s*|--user(?:name)?[=\s]\s*)"
)
_ALIAS = (
    r"(?<![\w-])mc(?:li)?\s+(?:-\S+\s+){0,4}(?:alias\s+(?:set|s)|config\s+host\s+add)\s+"
    r"(?:-\S+\s+){0,4}\S+\s+\S+\s+"
)
"""How `mc alias set NAME URL` begins; an access key and a secret key follow."""

# Each entry: what stands before a secret, and the secret.
_PROGRAMS = [
    (
        r"(?<![\w-])(?:sshpass(?:\s+-(?-i:[evhV]+|P\s*(?:'[^']*'|\"[^\"]*\"|\S+))){0,4}\s+-(?-i:[ev]*p)"
        rf"|(?:mysql|mariadb)\w*{_OPTIONS}(?-i:-[ABCEGHILNTUVWXbcfijmnqrstvw]*p)(?=\S)|redis-cli{_OPTIONS}-a"
        rf"|ldap(?:search|add|modify|delete|compare|whoami|passwd|modrdn|exop){_OPTIONS}(?-i:-[xZLvnMAtc]*w))\s*",
        _ARGUMENT,
    ),
    (rf"(?<![\w-])ldappasswd{_OPTIONS}(?-i:-[xZvnAS]*a)\s*", _ARGUMENT),
    (rf"(?<![\w-])ldappasswd{_OPTIONS}(?-i:-[xZvnAS]*s)\s*", _ARGUMENT),
    (rf"(?<![\w-])smbclient{_OPTIONS}['\"]?(?://|\\{{2,4}})[^\s:]+\s+(?!-)", _ARGUMENT),
    (rf"{_SAMBA}[^\s%'\"]+%", _ARGUMENT),
    (rf"{_SAMBA}'[^%']+%", r"[^']+"),
    (rf"{_SAMBA}\"[^%\"]+%", r"[^\"]+"),
    (
        r"(?<![\w-])(?:sqlplus|sqlcl|sqlldr|expdp|impdp|rman)(?=\s)[^\r\n<>|;&@]{0,400}?"
        r"(?:(?<=[\s'\"])|(?<=userid=))[\w$#.]+/",
        r"[^\s'\"]+(?=@)|\"[^\"]*\"|[^\s'\"]+",
    ),
    (_ALIAS, rf"(?![-&|;<>]){_ARGUMENT}"),
    (rf"{_ALIAS}(?![-&|;<>])\S+\s+", rf"(?![-&|;<>]){_ARGUMENT}"),
    # --key secret, but not a path, a number, or words with a number behind them.
    (
        r"(?<![\w-])--key(?:=|\s+)['\"]?",
        r"(?-i:(?![a-z]+(?:[_-][a-z]+)*[_-]?\d{0,4}(?![\w+/=.-]))"
        r"(?=[\w+=-]{0,200}\d)(?=[\w+=-]{0,200}[A-Za-z])[\w+=-]{8,2048}(?![\w+/=.\\:-])"
        r"|(?=[\w+/]{0,200}[A-Z])(?=[\w+/]{0,200}[a-z])(?=[\w+/]{0,200}\d)[A-Za-z0-9+][A-Za-z0-9+/]{31,2048}={0,2}(?![\w+/=.\\:-]))",
    ),
]
"""Arguments of programs. Their options are short. Case counts: `mysql -P` is a port, `ldapsearch -W` asks."""
_PLACES = [
    # name=secret, name: secret, "name": "secret", name => 'secret'. A comma, semicolon or ampersand ends the
    # secret if another name or nothing follows it.
    (
        rf"(?:(?:{_WORDS}){_NUMBER}{_ASSIGNED}|{_PLURAL}(?:\\*['\"]\s*[=:]|\s*=))\s*(?!\s*(?:{_REASONS}))",
        rf"(?:{_SCHEME}\s+)?"
        rf"(?:\*\*\*(?!\w)|[\[({{]*\s*[bfru]{{0,2}}{_QUOTED}"
        r"|(?:[^\s&;,'\"<>]|[&;,](?![\s'\"]|$|[\w.-]+\s*[=:])|'[^'\s]+'|\"[^\"\s]+\")+)",
    ),
    # --name secret, --name=secret: up to the end of the word, as a shell reads it.
    (rf"(?:(?<!-)--|(?<![\w-])-){_NAME}(?:=|\s+(?!--))", rf"\*\*\*(?!\w)|(?:{_QUOTED}|[^\s'\"\\]|\\.)+"),
    # A header runs to the end of its line, or to the quote that stands before its name.
    (r"'[\w-]*(?:authorization|cookie):\s*", r"(?:[^'\r\n]|'(?![\s\]})]|$))+"),
    (r'"[\w-]*(?:authorization|cookie):\s*', r'(?:[^"\r\n]|"(?![\s\]})]|$))+'),
    (r"(?<![\w'\"-])[\w-]*(?:authorization|cookie):\s*", r"[^'\"\s][^\r\n]*"),
    (rf"<{_NAME}(?:\s[^<>]*)?>", r"[^<]+"),
    # curl -u name:secret, but not docker -u 1000:1000; a proxy without a scheme.
    (
        r"(?:(?<![\w-])-[a-z]{0,3}u[\s=]*|--(?:(?:proxy-)?user|auth)[\s=]+)['\"]?[^\s:'\"]+:",
        r"(?!\d+(?!\S)|//)[^\s'\"]+",
    ),
    (r"(?:proxy['\"]?[\s=:]+|(?<![\w-])-x\s*)['\"]?[^\s:@/'\"]+:", r"[^\s'\"@]{1,300}(?=@)"),
    (r"(?<!\w)login\s+\S{1,100}\s+password\s+", r"\S+"),
    *_PROGRAMS,
    (r"(?<![\w-])-pass(?:in|out)?[\s=]+pass:", rf"(?:{_QUOTED}|\S)+"),
    (r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----", r".+?(?=-----END|\Z)"),
    (r"(?:bearer|sharedkey)\s+", r"[A-Za-z0-9+/=._~:-]{6,}"),
    (r"\bbasic\s+", r"(?-i:(?=\S*[A-Z])(?=\S*[a-z])(?=\S*[0-9=])[A-Za-z0-9+/]{8,}={0,2})"),
    # Key ids of AWS, JSON web tokens, and the tokens of services that give theirs a prefix.
    (r"\b(?=AKIA|ASIA)", r"(?-i:[A-Z0-9]{16,})\b"),
    (r"\b(?=eyJ)", r"[\w-]{10,2048}\.[\w-]+\.[\w-]*"),
    (
        r"\b(?=hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|npm_|dckr_pat_|pypi-AgE|AIza|sk-(?=[\w-]{0,40}\d))",
        r"[\w-]{20,}",
    ),
    (r"\b(?=ya29\.|hvs\.)", r"[\w.-]{20,}"),
    # The session tokens of AWS and the account keys of Azure.
    (r"\b(?=IQoJb3JpZ2lu|FwoGZXIvYXdz)", r"[A-Za-z0-9+/]{20,}={0,2}"),
    (r"(?<![A-Za-z0-9+/])(?=[A-Za-z0-9+/]{86}==)", r"[A-Za-z0-9+/]{86}=="),
]

_NOT_A_FILE = r"(?!(?:file|direct)://)\b([A-Za-z][A-Za-z0-9+.-]{0,30}://)"
_USERINFO = re.compile(
    rf"(?!(?-i:{CONTAINER_BEFORE_ACCOUNT})){_NOT_A_FILE}"
    r"(?:[^\s/?#'\"]*@|(?!arn:)[^\s/?#'\":\[]*:(?!\d*[/?#])[^\s'\"]{1,300}@)"
)
"""A login before a host; a password may hold slashes that nobody encoded, where no port would stand."""
_URL_START = re.compile(_NOT_A_FILE)
_QUERY_START = re.compile(r"[?#]")
_NOT_PLAIN = re.compile(r"[\s'\"]")
_WORD = re.compile(r"[^\s'\"<>]+")


def redact(text: str) -> str:
    """Return `text` without secrets: `***` stands for the values of passwords, keys, tokens and signatures.

    URLs lose their query and user-info.
    """
    text = _USERINFO.sub(r"\1", text)
    kept = 0
    parts = []
    for begin, end in sorted(_secrets(text, _PLACES)):
        if begin > kept or (begin == kept == 0):
            parts += [text[kept:begin], _MASK]
        kept = max(kept, end)
    parts.append(text[kept:])
    return _WORD.sub(_without_query, "".join(parts))


def _without_query(word: re.Match[str]) -> str:
    """Return a word up to the query or fragment of the first URL in it."""
    text = word.group()
    url = _URL_START.search(text) if "://" in text else None
    query = url and _QUERY_START.search(text, url.end())
    return text[: query.start()] if query else text


def is_secret_name(name: str) -> bool:
    """Return whether what is called `name` is a secret."""
    return re.fullmatch(_SECRET_KEY, name) is not None


@cache
def _compiled(place: tuple[str, str]) -> tuple[re.Pattern[str], ...]:
    """The patterns of a place: compiled when first needed, which many verbs do not."""
    return tuple(re.compile(part, re.IGNORECASE | re.DOTALL) for part in place)


def _secrets(text: str, places: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """Yield where the secrets begin and end; they may overlap."""
    for before, secret in map(_compiled, places):
        reached, may_be_quoted = 0, _QUOTED in secret.pattern
        for match in before.finditer(text):
            # Inside a secret of this kind another one ends where that does, unless it is quoted. To look
            # again at each of many names in a row would take quadratic time.
            if match.end() < reached and not (may_be_quoted and _OPENING.match(text, match.end())):
                continue
            found = secret.match(text, match.end())
            if found is not None:
                reached = max(reached, found.end())
                yield found.span()


def redact_value(value: Any) -> Any:
    """Return a JSON value without secrets: texts as `redact` leaves them, and values under secret names as `***`.

    In a list, which may be a command line, the element behind one like `--api-key` is a secret too.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            redact(str(key)): _masked(inner) if is_secret_name(str(key)) else redact_value(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        if all(isinstance(word, str) for word in value):
            value = _without_arguments(value)
        before = [None, *value][: len(value)]
        return [
            _redact_word(flag if isinstance(flag, str) else "", inner)
            if isinstance(inner, str)
            else redact_value(inner)
            for flag, inner in zip(before, value, strict=True)
        ]
    return value


def _without_arguments(words: Sequence[str]) -> list[str]:
    """Return a command line without the secrets that follow short options of its program."""
    # Blanks and quotes within an argument are not those of a shell.
    line = " ".join(_NOT_PLAIN.sub("_", word) for word in words)
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    kept = list(words)
    for begin, _ in sorted(_secrets(line, _PROGRAMS), reverse=True):
        at = bisect_right(starts, begin) - 1
        kept[at] = kept[at][: begin - starts[at]] + _MASK
    return kept


def _redact_word(flag: str, word: str) -> str:
    """Return an element of a list without secrets; `flag` is the one before it."""
    if re.fullmatch(_SECRET_FLAG, flag):
        return _MASK
    known = re.fullmatch(_SECRET_WORD, word) or (_LOGIN_FLAG.fullmatch(flag) and _LOGIN.fullmatch(word))
    return f"{known[1]}{_MASK}" if known else redact(word)


def _masked(value: Any) -> Any:
    """Return `value` with `***` for every text and number in it; what is empty or a flag says nothing."""
    if isinstance(value, dict):
        return {redact(str(key)): _masked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(inner) for inner in value]
    return _MASK if value and not isinstance(value, bool) else value
