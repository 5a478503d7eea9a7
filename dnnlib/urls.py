"""URLs: what is one, and URLs without what must not be seen: passwords, and the signatures and tokens of links."""

import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_HTTP = r"https?:/"  # what `Path` leaves of https://
_USER = re.compile(rf"(://|\b{_HTTP})[^\s/'\"]*@", re.IGNORECASE)
_QUERY = re.compile(
    r"(?:(?<=://)|(?<=\bhttp:/)|(?<=\bhttps:/))([^\s?#'\"]*)[?#][^\s'\"<>()]+"  # of a URL
    r"|(?<=/)([^\s?#'\"]*)\?[^\s'\"<>()]*=[^\s'\"<>()]*",  # of a path on a server, as errors of connections quote it
    re.IGNORECASE,
)
# What S3, Google, CloudFront and Azure put into a link beside the file's own parameters, by the name of the signature.
_SIGNED_BY = {
    "x-amz-signature": r"x-amz-.*",
    "x-goog-signature": r"x-goog-.*",
    "signature": r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid",
    "sig": r"sig|s[ektvpr]|sip|spr|srt|sdd|sk(oid|tid|t|e|s|v)",
}


def is_url(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is an http or https URL. Anything else, a Path included, is a name on this machine."""
    if not isinstance(source, str):
        return False
    try:
        parts = urlsplit(source)
    except ValueError:  # e.g. an unbalanced bracket: no URL
        return False
    return parts.scheme.lower() in ("http", "https") and parts.netloc != ""


def without_secrets(text: str) -> str:
    """A text as it may be shown and stored: no user and password in its URLs, and `?...` in place of a query."""
    return _QUERY.sub(lambda found: f"{found[1] or found[2] or ''}?...", _USER.sub(r"\1", text))


def refuse_url(path: str | os.PathLike[str]) -> None:
    """ValueError if a URL was given where a path on this machine is asked for."""
    if re.match(_HTTP, os.fspath(path), re.IGNORECASE):
        raise ValueError(f"{without_secrets(os.fspath(path))} is a URL: download it, and give the file or folder here")


def identity_of(url: str) -> str:
    """What stays of a URL from one link to the same file to the next: no user and password, no signature.

    Other parameters stay, since they may tell files apart (`?id=7`). A URL without such things is given as it is.
    """
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    query = parse_qsl(parts.query, keep_blank_values=True)
    signed = [names for signature, names in _SIGNED_BY.items() if signature in (name.lower() for name, _ in query)]
    if signed:
        theirs = re.compile("|".join(signed), re.IGNORECASE)
        plain = plain._replace(query=urlencode([(name, value) for name, value in query if not theirs.fullmatch(name)]))
    return url if plain == parts else urlunsplit(plain)
