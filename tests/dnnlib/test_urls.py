"""What is shown and stored of URLs, and what tells files apart."""

from pathlib import Path

import pytest

from dnnlib.urls import identity_of, is_url, refuse_url, without_secrets

PLAIN = "https://host:8080/a/net.pkl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (PLAIN, PLAIN),
        ("https://me:p%40ss@host:8080/a/net.pkl", PLAIN),
        ("https://me:p@ss@host:8080/a/net.pkl", PLAIN),
        ("https://token@host:8080/a/net.pkl", PLAIN),
        (f"{PLAIN}?X-Amz-Signature=abc&X-Amz-Date=1", f"{PLAIN}?..."),
        (f"{PLAIN}?opaque", f"{PLAIN}?..."),
        (f"{PLAIN}#access_token=abc", f"{PLAIN}?..."),
        (f"no file at '{PLAIN}?sig=a%2Fb'; try", f"no file at '{PLAIN}?...'; try"),
        ("Max retries with url: /a/net.pkl?sig=abc (by X)", "Max retries with url: /a/net.pkl?... (by X)"),
        ("socks5h://me:pw@proxy:1 and https://a:b@c/d", "socks5h://proxy:1 and https://c/d"),
        ("http:/me:pw@host/a.zip?token is a URL", "http:/host/a.zip?... is a URL"),
        ("notes:/a/b#1 data:/x@y", "notes:/a/b#1 data:/x@y"),
        ("which network? Give --net=PATH|URL", "which network? Give --net=PATH|URL"),
        ("me@example.org, a/b@c, what? 3/4?", "me@example.org, a/b@c, what? 3/4?"),
    ],
)  # fmt: skip
def test_what_is_shown(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "link",
    [
        "https://me:pw@host:8080/a/net.pkl",
        f"{PLAIN}?X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=D&X-Amz-Expires=1&X-Amz-Signature=S",
        f"{PLAIN}?X-Goog-Algorithm=A&X-Goog-Date=D&X-Goog-Signature=S",
        f"{PLAIN}?sv=2022&st=1&se=2&sr=b&sp=r&sig=S%3D",
        f"{PLAIN}?Expires=1&Signature=S&Key-Pair-Id=K",
        f"{PLAIN}?AWSAccessKeyId=A&Expires=1&Signature=S",
    ],
)
def test_links_to_one_file_are_one_file(link):
    assert identity_of(link) == PLAIN


@pytest.mark.parametrize("query", ["id=7", "download=true&b=", "se=2", "expires=never", "a%2Fb", "key=net.pkl"])
def test_what_may_tell_files_apart_stays_as_it_is(query):
    assert identity_of(f"{PLAIN}?{query}") == f"{PLAIN}?{query}"
    assert identity_of(f"{PLAIN}?id=7&sig=S&se=1") == f"{PLAIN}?id=7"


@pytest.mark.parametrize("given", ["https://me:pw@host/a.zip?sig=S", Path("http://me:pw@host/a.zip?sig=S")])
def test_where_a_path_is_asked_for_a_url_is_said_to_be_one(given):
    with pytest.raises(ValueError, match=r"https?:/+host/a\.zip\?\.\.\. is a URL: download it") as error:
        refuse_url(given)
    assert "pw" not in str(error.value)
    refuse_url("httpdata/a.zip")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.b/c.pkl", True),
        ("HTTP://a:80", True),
        ("ftp://a/b", False),
        ("file:///etc/passwd", False),
        ("https:///no-host", False),
        ("http://[half", False),
        ("models/net.pkl", False),
        ("C:\\net.pkl", False),
        ("", False),
    ],
)
def test_is_url(text, expected):
    assert is_url(text) is expected
