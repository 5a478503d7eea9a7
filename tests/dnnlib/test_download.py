"""Downloads against a server that cuts, lies, stalls and changes its mind; and the cache they fill."""

import errno
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from requests.exceptions import InvalidSchema

from dnnlib import answers
from dnnlib.download import DownloadError, cache_path, fetch, recorded_sha256
from dnnlib.filelock import exclusive
from dnnlib.partial import PartialFile
from dnnlib.published import MODEL_ROOT
from tests.dnnlib.conftest import send

PATIENCE = 60  # seconds that a busy machine may take for what an idle one does in less than one
CONTENT = random.Random(1).randbytes(10_000)
OTHER = random.Random(2).randbytes(10_000)
LARGE = random.Random(3).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
SHA_OTHER = hashlib.sha256(OTHER).hexdigest()


@pytest.fixture
def url(server):
    server.content = CONTENT
    return server.root + "/models/net.bin"


@pytest.fixture
def get(policy):
    """fetch with little patience and no bar."""
    return lambda source, **options: fetch(source, **{"progress": False, "policy": policy, **options})


def beside(url, suffix):
    path = cache_path(url)
    return path.with_name(f".{path.name}.{suffix}")


def nothing_usable(url):
    prefix = cache_path(url).name[:33]
    folder = cache_path(url).parent
    return not folder.exists() or not any(name.startswith(prefix) for name in os.listdir(folder))


def start(url, *extra, before=""):
    """Another process that fetches `url`, with the policy of the tests, and prints the path."""
    code = before + (
        "import sys\nfrom dnnlib.download import Policy, fetch\n"
        "policy = Policy(5, 30, 3, 10, 0.01, 0.05, 1000)\n"
        "print(fetch(sys.argv[1], policy=policy, sha256=sys.argv[2] if len(sys.argv) > 2 else None))\n"
    )
    command = [sys.executable, "-c", code, url, *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# --- the plain way ---------------------------------------------------------------------------------------


def test_fetched_once_then_served_from_the_cache(server, url, get):
    path = get(url)
    assert path == cache_path(url)
    assert path.read_bytes() == CONTENT
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert sorted(os.listdir(path.parent)) == sorted([f".{path.name}.json", f".{path.name}.lock", path.name])
    assert get(url) == get(url, sha256=SHA.upper()) == get(url, offline=True) == path
    assert len(server.requests) == 1
    assert recorded_sha256(url) == SHA


def test_name_in_the_cache_is_that_of_the_reference_tools():
    url = "https://host/a/net (1)-img512_x.y.pkl?x=1"
    expected = hashlib.md5(url.encode()).hexdigest() + "_net__1_-img512_x.y.pkl"
    assert cache_path(url) == Path(os.environ["DNNLIB_CACHE_DIR"], "downloads", expected)
    for odd in ("https://host", "https://host/", "https://host/a/..", "https://host/" + "n" * 300 + ".pkl"):
        path = cache_path(odd)
        assert path.parent.name == "downloads"
        assert len(path.name) <= 33 + 128
    assert cache_path("https://host/" + "n" * 300 + ".pkl").suffix == ".pkl"


def test_own_files_beside_are_invisible_to_the_reference_tools(server, url, get):
    """They take whatever matches `<md5>_*` for the file, so only the finished file may."""
    server.script = [server.cut(5000), server.answer(503)]
    with pytest.raises(DownloadError):
        get(url)
    assert beside(url, "part").stat().st_size > 0
    assert nothing_usable(url)


@pytest.mark.parametrize("name", [None, "_https___host_models_net.bin"])
def test_file_left_by_another_tool_is_used_and_recorded(server, url, get, name):
    """Under our name, or under the name that tool chose behind the same md5."""
    path = cache_path(url)
    if name is not None:
        path = path.with_name(path.name[:32] + name)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert get(url, offline=True) == path
    assert json.loads(beside(url, "json").read_text())["origin"] == "found in the cache"
    assert recorded_sha256(url) == SHA
    assert get(url, sha256=SHA) == path
    assert server.requests == []


def test_bar_counts_bytes_on_stderr(server, url, policy, capsys):
    server.script = [server.cut(5000), server.proper()]
    fetch(url, policy=policy)
    out, err = capsys.readouterr()
    assert out == ""
    assert "net.bin" in err
    assert "9.77k/9.77k" in err


# --- paths and roots -------------------------------------------------------------------------------------


def test_local_file(tmp_path, get):
    file = tmp_path / "net.bin"
    file.write_bytes(CONTENT)
    assert get(file) == get(str(file), sha256=SHA, offline=True) == file
    with pytest.raises(ValueError, match=f"{SHA}, not {SHA_OTHER}"):
        get(file, sha256=SHA_OTHER)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent"):
        get(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        get(tmp_path)


def test_bad_arguments(tmp_path, get):
    with pytest.raises(ValueError, match="only http and https"):
        get("ftp://host/net.bin")
    with pytest.raises(ValueError, match="only http and https"):
        get("file:///etc/passwd")
    with pytest.raises(ValueError, match="64 hexadecimal digits, got 'abc'"):
        get(tmp_path, sha256="abc")
    with pytest.raises(ValueError, match=r"mirror '\./x'"):
        get("http://host/x", mirrors=["./x"])


def test_model_root_as_mirror(server, get, monkeypatch):
    server.content = CONTENT
    monkeypatch.setenv("EDM2_MODEL_ROOT", server.root + "/copy/")
    url = MODEL_ROOT + "/posthoc/net.bin"
    path = get(url)
    assert path == cache_path(url)  # named by the published URL: found again with or without the mirror
    assert path.read_bytes() == CONTENT
    assert server.requests[0][0] == "/copy/posthoc/net.bin"
    assert json.loads(beside(url, "json").read_text())["origin"] == server.root + "/copy/posthoc/net.bin"


def test_model_root_as_folder(tmp_path, get, monkeypatch):
    (tmp_path / "posthoc").mkdir()
    file = tmp_path / "posthoc" / "net 1.bin"
    file.write_bytes(CONTENT)
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(tmp_path))
    assert get(MODEL_ROOT + "/posthoc/net%201.bin", offline=True, sha256=SHA) == file
    with pytest.raises(FileNotFoundError, match=r"absent\.bin.*EDM2_MODEL_ROOT is set"):
        get(MODEL_ROOT + "/posthoc/absent.bin")
    with pytest.raises(ValueError, match="not the expected file"):
        get(MODEL_ROOT + "/posthoc/net%201.bin", sha256=SHA_OTHER)
    with pytest.raises(ValueError, match="leads out of"):
        get(MODEL_ROOT + "/%2e%2e/x.bin")
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="neither an http"):
        get(MODEL_ROOT + "/posthoc/x.bin")


def test_model_root_leaves_other_urls_alone(server, url, get, monkeypatch, tmp_path):
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(tmp_path))
    assert get(url).read_bytes() == CONTENT


@pytest.mark.parametrize("folder_there", [False, True])
def test_offline_names_url_place_and_hash_and_asks_nobody(server, url, get, folder_there):
    if folder_there:
        cache_path(url).parent.mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        get(url, offline=True, sha256=SHA)
    for text in (url, str(cache_path(url)), SHA):
        assert text in str(error.value)
    with pytest.raises(FileNotFoundError, match="EDM2_MODEL_ROOT"):
        get(MODEL_ROOT + "/x.pkl", offline=True)
    assert server.requests == []


def test_redirect_is_followed(server, url, get):
    server.script = [server.answer(302, {"Location": "/elsewhere"}), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/models/net.bin", "/elsewhere"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "no http or https URL"),
        ("ftp://127.0.0.1/x", "no http or https URL"),
        ("http://[", "no URL"),
        ("http://127.0.0.1:x/", "no URL"),
    ],
)
def test_redirects_that_lead_to_no_web_server(server, url, get, target, words):
    server.script = [server.answer(302, {"Location": target})]
    with pytest.raises(DownloadError, match=words):
        get(url)
    assert len(server.requests) == 1


def test_redirects_without_end(server, url, get):
    server.script = [server.answer(302, {"Location": "again"})]
    with pytest.raises(DownloadError, match="more than 10 redirects"):
        get(url)
    assert len(server.requests) == 11


def test_redirects_never_leave_https():
    """Whatever the server of the first URL says; the other way round it is allowed."""
    assert answers._redirected("http://a/x", "https://b/y") == "https://b/y"
    assert answers._redirected("https://a/x", "//b/y") == "https://b/y"
    for target in ("http://b/y", "http://a/x", "HTTP://a/x"):
        with pytest.raises(DownloadError, match="from https to http"):
            answers._redirected("https://a/x", target)


def test_passwords_go_to_their_own_server_only(server, url, get):
    """127.0.0.1 and localhost are one machine, and two names."""
    with_user = url.replace("//", "//user:secret@")
    elsewhere = server.root.replace("127.0.0.1", "localhost") + "/there"
    hops = [server.answer(302, {"Location": location}) for location in ("/here", elsewhere)]
    server.script = [*hops, server.proper()]
    assert get(with_user).read_bytes() == CONTENT
    sent = [(path, "Authorization" in headers) for path, headers in server.requests]
    assert sent == [("/models/net.bin", True), ("/here", True), ("/there", False)]


def test_bodies_of_redirects_are_not_read(server, url, get):
    """They may be compressed, and without end."""
    bomb = gzip.compress(bytes(10**6))

    def redirect(handler):
        send(handler, 302, {"Location": "/there", "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"})
        with suppress(OSError):
            while not server.over.is_set():
                handler.wfile.write(b"%x\r\n" % len(bomb) + bomb + b"\r\n")

    server.script = [redirect, server.proper()]
    assert get(url).read_bytes() == CONTENT


# --- too much and too slow ---------------------------------------------------------------------------------


def chunks_without_end(server, piece, wait):
    def act(handler):
        send(handler, 200, {**server.headers, "Transfer-Encoding": "chunked"})
        with suppress(OSError):
            while not server.over.wait(wait):
                handler.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                server.sent += len(piece)

    return act


def test_bodies_without_end_are_cut_off_and_removed(server, url, get, policy):
    server.script = [chunks_without_end(server, b"x" * 10_000, 0.001)]
    with pytest.raises(DownloadError, match="does not say how long the file is, and has sent 200,000 bytes"):
        get(url, policy=replace(policy, max_unannounced_bytes=200_000))
    assert len(server.requests) == 1
    assert not beside(url, "part").exists()
    assert nothing_usable(url)


def test_files_larger_than_any_that_is_read_are_not_begun(server, url, get, policy):
    with pytest.raises(DownloadError, match="the file has 10,000 bytes, more than any that is read here"):
        get(url, policy=replace(policy, max_bytes=9_999))
    assert len(server.requests) == 1
    assert not beside(url, "part").exists()


def test_the_disk_is_looked_at_while_a_file_of_unknown_length_grows(server, url, get, policy, monkeypatch):
    monkeypatch.setattr("dnnlib.transfer.shutil.disk_usage", lambda path: SimpleNamespace(free=700_000 - server.sent))
    server.script = [chunks_without_end(server, b"x" * 10_000, 0.001)]
    with pytest.raises(OSError, match="do not fit on its disk") as error:
        get(url, policy=replace(policy, disk_reserve=200_000))
    assert error.value.filename == str(beside(url, "part"))
    assert beside(url, "part").stat().st_size > 0


@pytest.mark.parametrize("chunked", [False, True])
def test_servers_that_drip_are_left(server, url, get, policy, chunked):
    """Every byte begins a socket's time limit anew."""

    def drip(handler):
        send(handler, 200, server.headers | {"Content-Length": len(CONTENT)})
        with suppress(OSError):
            while not server.over.wait(0.02):
                handler.wfile.write(b"x")

    server.script = [chunks_without_end(server, b"x", 0.02) if chunked else drip]
    began = time.monotonic()
    with pytest.raises(DownloadError, match="sends less than 2,000 bytes per second"):
        get(url, policy=replace(policy, chunk_timeout=0.5))
    assert time.monotonic() - began < PATIENCE
    assert len(server.requests) == 1


def test_servers_that_drip_headers_are_left(server, url, get, policy):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            while not server.over.wait(0.02):
                handler.wfile.write(b"x")

    server.script = [drip]
    with pytest.raises(DownloadError, match=r"2 tries.*no whole answer"):
        get(url, policy=replace(policy, chunk_timeout=0.3, attempts=2))


def test_what_a_server_says_is_shown_without_control_characters(server, url, get):
    server.script = [lambda handler: handler.wfile.write(b"HTTP/1.1 404 No \x1b]0;x\x07" + b"y" * 1000 + b"\r\n\r\n")]
    with pytest.raises(DownloadError, match="the server answered 404 No") as caught:
        get(url)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_validators_that_no_honest_server_sends_are_not_kept(server, url, get):
    server.headers = {"ETag": '"' + "v" * 50_000 + '"'}
    server.script = [server.cut(5000), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, None]


def test_a_link_in_place_of_a_partial_file_is_not_followed(server, url, get, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = beside(url, "part")
    part.parent.mkdir(parents=True)
    part.symlink_to(victim)
    beside(url, "part.json").symlink_to(victim)
    assert get(url).read_bytes() == CONTENT
    assert victim.read_bytes() == b"precious"


# --- cutting and stalling --------------------------------------------------------------------------------


def test_cut_connection_is_continued_where_it_broke(server, url, get):
    server.script = [server.cut(5000), server.cut(2000), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=5000-", "bytes=7000-"]
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"v1"', '"v1"']


def test_stalled_connection_is_left_and_continued(server, url, get, policy):
    server.script = [server.stall(5000), server.proper()]
    began = time.monotonic()
    assert get(url, policy=replace(policy, read_timeout=1)).read_bytes() == CONTENT
    assert 1 <= time.monotonic() - began < PATIENCE  # the server itself stalls for longer
    assert server.ranges() == [None, "bytes=5000-"]


def test_server_that_never_answers(server, url, get, policy):
    server.script = [lambda handler: server.over.wait(30)]
    with pytest.raises(DownloadError, match=r"3 tries.*stalled.*Put the file at"):
        get(url, policy=replace(policy, read_timeout=0.3))
    assert len(server.requests) == 3
    assert nothing_usable(url)


def test_nobody_listens(get):
    with pytest.raises(DownloadError, match="3 tries"):
        get("http://127.0.0.1:9/net.bin")


def test_tries_that_bring_something_do_not_use_up_patience(server, url, get):
    server.script = [server.cut(1000)]
    assert get(url).read_bytes() == CONTENT
    assert len(server.requests) == 10


def test_tries_are_bounded_even_so(server, url, get, policy):
    server.script = [server.cut(1000)]
    with pytest.raises(DownloadError, match="gave up after 4 tries"):
        get(url, policy=replace(policy, max_attempts=4))
    assert get(url).read_bytes() == CONTENT  # the next run continues
    assert len(server.requests) == 10


def test_continues_by_date_where_there_is_no_strong_etag(server, url, get):
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": date}
    server.script = [server.cut(5000), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == date


@pytest.mark.parametrize(("sha256", "expected"), [(None, [None, None]), (SHA, [None, "bytes=5000-"])])
def test_without_validator_continues_only_if_a_hash_can_tell(server, url, get, sha256, expected):
    server.headers = {}
    server.script = [server.cut(5000), server.proper()]
    assert get(url, sha256=sha256).read_bytes() == CONTENT
    assert server.ranges() == expected


def test_server_without_ranges_starts_over(server, url, get):
    whole = server.answer(200, {"ETag": '"v1"'}, CONTENT)
    server.script = [server.cut(5000), whole]
    assert get(url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=5000-"]


def test_file_changed_between_tries_is_not_spliced(server, url, get):
    server.script = [server.cut(5000), server.become(OTHER, '"v2"')]
    assert get(url).read_bytes() == OTHER


@pytest.mark.parametrize(
    "lie",
    [
        {"ETag": '"v2"', "Content-Range": "bytes 5000-9999/10000"},  # another version all the same
        {"ETag": None, "Content-Range": "bytes 5000-9999/10000"},  # does not say which
        {"ETag": '"v1"', "Content-Range": "bytes 4000-8999/10000"},  # another place
        {"ETag": '"v1"', "Content-Range": "bytes 5000-9999/12000"},  # another length
        {"ETag": '"v1"'},
    ],
)
def test_wrong_continuation_is_not_spliced(server, url, get, lie):
    server.script = [server.cut(5000), server.answer(206, lie, OTHER[5000:]), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=5000-", None]


@pytest.mark.parametrize("sent", [CONTENT[5000:9000], CONTENT[5000:] + b"and more"])
def test_continuation_without_length_is_held_to_the_length_of_the_file(server, url, get, sent):
    """The connection's end tells nothing, so 4,000 of 5,000 bytes, or 5,008, look complete to HTTP."""
    headers = {"ETag": '"v1"', "Content-Range": "bytes 5000-9999/10000", "Content-Length": None}
    server.script = [server.cut(5000), server.answer(206, headers, sent), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=5000-", "bytes=9000-" if len(sent) == 4000 else None]


def test_file_that_shrank_below_what_we_have(server, url, get):
    """416: the bytes asked for do not exist. With the date as validator the server may not see why."""
    server.script = [server.cut(5000), server.answer(416), server.become(OTHER[:3000], '"v2"')]
    assert get(url).read_bytes() == OTHER[:3000]
    assert server.ranges() == [None, "bytes=5000-", None]


def test_random_misbehaviour_never_yields_a_mixture(server, policy):
    """Whatever the server does, the file is one of its versions, whole, or there is none."""
    versions = [random.Random(seed).randbytes(4000 + 1000 * seed) for seed in range(3)]
    outcomes = set()
    for seed in range(40):
        rng = random.Random(seed)
        server.requests.clear()
        server.content = versions[0]
        server.headers = rng.choice([{"ETag": '"0"'}, {}])
        pool = [server.cut(rng.randrange(4000)) for _ in range(5)]
        if server.headers:
            pool += [server.become(versions[v], f'"{v}"', server.cut(rng.randrange(3000))) for v in (0, 1, 2)]
        pool += [server.answer(503), server.answer(416), server.proper()]
        pool += [server.answer(200, {"ETag": '"1"'}, versions[1]), server.answer(206, {}, b"junk")]
        server.script = [rng.choice(pool) for _ in range(6)]
        url = f"{server.root}/{seed}.bin"
        try:
            content = fetch(url, progress=False, policy=replace(policy, backoff=0.0)).read_bytes()
        except DownloadError:
            assert nothing_usable(url)
            outcomes.add(None)
            continue
        assert content in versions
        outcomes.add(versions.index(content))
    assert outcomes >= {None, 0, 1}


# --- lying -----------------------------------------------------------------------------------------------


CHUNKED = {"Content-Length": None, "Transfer-Encoding": "chunked"}
ONE_CHUNK = b"%x\r\n%s\r\n" % (len(CONTENT), CONTENT)


@pytest.mark.parametrize(
    ("headers", "body", "message", "tries"),
    [
        ({"Content-Length": 20_000, "ETag": '"v1"'}, CONTENT, "3 tries without progress", 1 + 3),
        ({"Content-Length": None}, CONTENT, "does not say how long", None),  # a connection may end before its time
        (CHUNKED, ONE_CHUNK, "broke before the end", None),
        ({"Content-Type": "text/html; charset=utf-8"}, b"<html>sign in</html>", "web page", 1),
        ({"Content-Type": "application/octet-stream"}, b"\n<!DOCTYPE html><p>", "web page", None),
        ({}, b"", "is empty", None),
        ({"Content-Encoding": "gzip"}, CONTENT, "compressed in transit", None),
    ],
)
def test_what_is_not_the_whole_file_is_refused(server, url, get, headers, body, message, tries):
    server.script = [server.answer(200, headers, body)]
    with pytest.raises(DownloadError, match=message):
        get(url)
    assert tries in (None, len(server.requests))
    assert nothing_usable(url)


@pytest.mark.parametrize(
    ("headers", "body", "sha256"),
    [
        (CHUNKED, ONE_CHUNK + b"0\r\n\r\n", None),
        ({"Content-Length": None}, CONTENT, SHA),
        ({"Content-Type": "text/html"}, CONTENT, SHA),
    ],
)
def test_a_last_chunk_or_a_hash_tells_that_the_file_is_whole(server, url, get, headers, body, sha256):
    server.script = [server.answer(200, headers, body)]
    assert get(url, sha256=sha256).read_bytes() == CONTENT


def test_length_too_short_is_seen_by_hash(server, url, get):
    server.script = [server.answer(200, {"Content-Length": 5000}, CONTENT)]
    with pytest.raises(DownloadError, match=f"not the published {SHA}"):
        get(url, sha256=SHA)
    assert nothing_usable(url)


@pytest.mark.parametrize(("name", "end"), [("net.pkl", b"."), ("refs.npz", None)])
def test_length_too_short_is_seen_by_the_end_of_the_file(server, get, tmp_path, name, end):
    """Without a hash, a cut pickle or archive still shows."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", CONTENT)
    server.content = CONTENT + b"." if end else (tmp_path / "a.zip").read_bytes()
    url = f"{server.root}/{name}"
    server.script = [server.answer(200, {}, server.content[:5000])]
    with pytest.raises(DownloadError, match="cut short"):
        get(url)
    assert nothing_usable(url)
    server.script = [server.proper()]
    assert get(url).read_bytes() == server.content


# --- statuses and mirrors --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 206, 204])
def test_final_statuses_are_not_tried_again(server, url, get, status):
    server.script = [server.answer(status)]
    with pytest.raises(DownloadError, match=f"{url}: the server answered {status}.*Put the file at"):
        get(url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(server, url, get, status):
    server.script = [server.answer(status), server.answer(status), server.proper()]
    assert get(url).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_lasting_trouble_is_bounded(server, url, get):
    server.script = [server.answer(500)]
    with pytest.raises(DownloadError, match="3 tries without progress: the server answered 500"):
        get(url)
    assert len(server.requests) == 3


def test_waits_as_long_as_the_server_asks_up_to_a_limit(server, url, get, policy):
    server.script = [server.answer(503, {"Retry-After": "3600"}), server.proper()]
    began = time.monotonic()
    get(url, policy=replace(policy, backoff=0.0, backoff_max=0.5))
    assert 0.5 <= time.monotonic() - began < PATIENCE


def test_mirror_takes_over(server, url, get):
    server.script = [server.answer(404), server.proper()]
    path = get(url, mirrors=[server.root + "/mirror/other-name.bin"])
    assert path == cache_path(url)
    assert [path for path, _ in server.requests] == ["/models/net.bin", "/mirror/other-name.bin"]


def test_partial_file_of_one_origin_is_not_continued_from_another(server, url, get):
    server.script = [server.cut(5000), server.answer(404), server.become(OTHER, '"v1"')]
    path = get(url, mirrors=[server.root + "/mirror"])
    assert path.read_bytes() == OTHER
    assert server.ranges() == [None, "bytes=5000-", None]


def test_all_mirrors_fail(server, url, get):
    server.script = [server.answer(404), server.answer(403)]
    with pytest.raises(DownloadError, match=r"answered 404.*answered 403") as error:
        get(url, mirrors=[server.root + "/mirror"])
    assert "\n" not in str(error.value)


# --- hashes ----------------------------------------------------------------------------------------------


def test_wrong_hash_is_fetched_once_more_then_an_error(server, url, get):
    server.content = OTHER
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA_OTHER}, not the published {SHA}"):
        get(url, sha256=SHA)
    assert server.ranges() == [None, None]
    assert nothing_usable(url)
    assert beside(url, "quarantine").read_bytes() == OTHER


def test_second_copy_is_good(server, url, get):
    flipped = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.script = [server.answer(200, {"ETag": '"v1"'}, flipped), server.proper()]
    assert get(url, sha256=SHA).read_bytes() == CONTENT


def test_bad_origin_then_good_mirror(server, url, get):
    server.script = [server.become(OTHER, '"x"'), server.proper(), server.become(CONTENT, '"v1"')]
    assert get(url, sha256=SHA, mirrors=[server.root + "/m"]).read_bytes() == CONTENT


def test_corrupt_file_in_the_cache_is_replaced(server, url, get, capsys):
    path = get(url, sha256=SHA)
    path.write_bytes(CONTENT[:5000])
    assert get(url, sha256=SHA).read_bytes() == CONTENT
    assert "fetching it again" in capsys.readouterr().err
    assert len(server.requests) == 2
    assert beside(url, "quarantine").read_bytes() == CONTENT[:5000]


def test_corrupt_file_in_the_cache_is_not_used_offline(server, url, get):
    path = get(url)
    path.write_bytes(OTHER)
    with pytest.raises(DownloadError, match=f"{SHA_OTHER}, not {SHA}.*offline"):
        get(url, offline=True)


def test_hash_seen_first_is_held_against_every_later_copy(server, url, get):
    """No published hash: the first copy sets it, and the server may not change its mind unnoticed."""
    path = get(url)
    path.unlink()
    server.content, server.headers = OTHER, {"ETag": '"v2"'}
    with pytest.raises(DownloadError, match=f"{SHA_OTHER}, not {SHA} as on 20.*if it was republished, move"):
        get(url)
    assert nothing_usable(url)
    beside(url, "json").unlink()
    assert get(url).read_bytes() == OTHER


def test_published_hash_overrides_the_one_seen_first(server, url, get):
    server.content = OTHER
    get(url)
    server.content = CONTENT
    assert get(url, sha256=SHA).read_bytes() == CONTENT
    assert recorded_sha256(url) == SHA


def flip_one_bit(path):
    data = bytearray(path.read_bytes())
    data[4321] ^= 1
    path.write_bytes(data)


def test_flipped_bit_is_seen_even_with_the_old_size_and_date(server, url, get):
    path = get(url)
    stat = path.stat()
    flip_one_bit(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert get(url).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_untouched_file_is_not_read_again_unless_asked(server, url, get, monkeypatch):
    path = get(url)
    hashed = []
    monkeypatch.setattr("dnnlib.download.sha256_of", lambda file: hashed.append(file) or SHA)
    get(url)
    assert hashed == []
    get(url, verify=True)
    assert hashed == [path]
    os.utime(path, (1, 1))
    get(url)
    get(url)
    assert hashed == [path, path]


def test_verify_sees_what_the_disk_did(server, url, get):
    """A record that matches the file's size and times, over a content that is no longer the same."""
    path = get(url)
    flip_one_bit(path)
    stat, record = path.stat(), beside(url, "json")
    entry = json.loads(record.read_text())
    entry.update(mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns)
    record.write_text(json.dumps(entry))
    assert get(url) == path  # trusted, as documented
    assert len(server.requests) == 1
    assert get(url, verify=True).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_damaged_record_is_named(url, get):
    get(url)
    good = json.loads(beside(url, "json").read_text())
    wrong: list[object] = [[], {}, None, 1.5]
    entries = [{**good, key: value} for key in good for value in [*wrong, "x" if isinstance(good[key], int) else 1]]
    others = [{}, {**good, "more": 1}, {**good, "sha256": "x" * 64}, [good], 3]
    texts = ['{"sha256": 1', "[" * 100_000, "\udcff", *map(json.dumps, [*entries, *others])]
    for text in texts:
        beside(url, "json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(DownloadError, match=r"net\.bin\.json is damaged.*move it away"):
            get(url)


def test_damaged_companion_starts_over(server, url, get):
    """What stands beside a partial file decides what is sent to the server, and what is continued."""
    server.script = [server.cut(5000), server.answer(404)]
    with pytest.raises(DownloadError):
        get(url)
    companion, content = beside(url, "part.json"), beside(url, "part").read_bytes()
    good = json.loads(companion.read_text())
    wrong: list[object] = [[], {}, True, 1.5, -1, "a\r\nX: y", "日本"]
    entries = [{**good, key: value} for key in good for value in wrong]
    texts = [
        "{",
        "[" * 100_000,
        *map(json.dumps, [*entries, {}, {**good, "more": 1}, [good], {**good, "url": url + "2"}]),
    ]
    for text in texts:
        beside(url, "part").write_bytes(content)
        companion.write_text(text)
        assert PartialFile(beside(url, "part")).resumable(url, hash_known=True) is None, text[:200]
        assert not companion.exists()
    companion.write_text(json.dumps(good))
    beside(url, "part").write_bytes(content)
    assert PartialFile(beside(url, "part")).resumable(url, hash_known=True) is not None


def test_visibly_bad_file_put_in_the_cache_is_replaced(server, get):
    server.content = b"a pickle ends with a full stop."
    url = server.root + "/net.pkl"
    cache_path(url).parent.mkdir(parents=True)
    cache_path(url).write_bytes(server.content[:-5])
    assert get(url).read_bytes() == server.content


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_read_only_cache_is_used(server, url, get, monkeypatch, number):
    """No lock, no record can be written; the file in it is checked and used all the same."""
    path = get(url)
    beside(url, "json").unlink()

    def refuse(*_):
        raise OSError(number, "read-only")

    opened = os.open

    def open_for_reading(path, flags, *mode):
        return refuse() if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else opened(path, flags, *mode)

    monkeypatch.setattr("dnnlib.filelock.os.open", open_for_reading)
    monkeypatch.setattr("dnnlib.download.atomic_path", refuse)
    assert get(url) == get(url, sha256=SHA) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize("free", [9_999, 10_000 + 499])
def test_full_disk_is_said_before_it_is_full(server, url, get, policy, free, monkeypatch):
    """The file's own bytes, and those that are to stay free."""
    monkeypatch.setattr("dnnlib.transfer.shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(OSError, match="do not fit on its disk"):
        get(url, policy=replace(policy, disk_reserve=500))
    assert len(server.requests) == 1
    assert not beside(url, "part").exists()


def test_a_disk_that_others_fill_keeps_what_came(server, url, get, policy, monkeypatch):
    """Made room, the same command goes on."""
    with monkeypatch.context() as patched:
        free = iter([10**6] * 3)
        patched.setattr("dnnlib.transfer.shutil.disk_usage", lambda path: SimpleNamespace(free=next(free, 0)))
        with pytest.raises(OSError, match="10,000 bytes do not fit on its disk"):
            get(url, policy=replace(policy, disk_reserve=500, chunk_bytes=1000))
    assert beside(url, "part").read_bytes() == CONTENT[:2000]
    assert get(url).read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=2000-"


# --- several processes -----------------------------------------------------------------------------------


def test_four_processes_one_download(server, url):
    everybody_waits = threading.Event()

    def held(handler):
        everybody_waits.wait(25)
        server.proper()(handler)

    server.script = [held]
    first = start(url)
    wait_until(lambda: len(server.requests) == 1)
    others = [start(url) for _ in range(3)]
    for process in others:
        assert "Waiting for another process" in process.stderr.readline()
    everybody_waits.set()
    results = [process.communicate(timeout=120) for process in (first, *others)]
    assert [out.strip() for out, _ in results] == [str(cache_path(url))] * 4, results
    assert len(server.requests) == 1
    assert cache_path(url).read_bytes() == CONTENT


NO_LOCKS = (
    "import dnnlib.filelock\n"
    "def no_locks(_):\n    raise OSError(37, 'no locks available')\n"
    "dnnlib.filelock._lock_now = no_locks\n"
)


def unreliable(server, seed, most):
    """Serves LARGE; all answers break off, after `most` bytes at most, or never begin."""
    server.content, chance = LARGE, random.Random(seed)
    kinds = [lambda: server.cut(chance.randrange(most)), lambda: server.answer(503)]
    server.script = [chance.choices(kinds, [8, 2])[0]() for _ in range(300)]


MANY = pytest.mark.parametrize("number", [4, pytest.param(10, marks=pytest.mark.slow)])


@MANY
def test_many_processes_and_a_connection_that_keeps_breaking(server, url, number):
    """One is killed. All share one transfer, which loses a chunk per break, and with the killed one its buffers."""
    unreliable(server, 1, len(LARGE) // 5)
    processes = [start(url) for _ in range(number)]
    wait_until(lambda: server.requests)
    processes[0].kill()
    ends = [(process.communicate(timeout=120), process.returncode) for process in processes]
    path = cache_path(url)
    good = [out.strip() for (out, _), code in ends if code == 0]
    said = [err.splitlines()[-1] for (_, err), code in ends if code not in (0, -signal.SIGKILL)]
    assert set(good) == {str(path)}, ends
    assert all("DownloadError: could not fetch" in line and "Put the file at" in line for line in said), said
    assert len(good) + len(said) >= number - 1
    assert path.read_bytes() == LARGE
    left = [name for name in os.listdir(path.parent) if not name.endswith(".tmp.json")]  # a killed one's, at worst
    assert sorted(left) == sorted([f".{path.name}.json", f".{path.name}.lock", path.name])
    assert len(LARGE) <= server.sent <= len(LARGE) + 1000 * len(server.requests) + 2**16


@MANY
def test_many_processes_without_locks_and_a_connection_that_keeps_breaking(server, url, number):
    """Each has a partial file of its own then, and puts the same whole file in its place."""
    unreliable(server, 3, len(LARGE))
    processes = [start(url, before=NO_LOCKS) for _ in range(number)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in processes]
    path = cache_path(url)
    assert {out.strip() for (out, _), code in ends if code == 0} == {str(path)}, ends
    for (_, err), code in ends:
        assert code == 0 or "DownloadError: could not fetch" in err.splitlines()[-1], err
    assert path.read_bytes() == LARGE
    assert sorted(os.listdir(path.parent)) == sorted([f".{path.name}.json", f".{path.name}.lock", path.name])


def test_killed_process_leaves_nothing_usable_and_the_next_continues(server, url, get):
    server.script = [server.stall(6000), server.proper()]
    process = start(url)
    wait_until(lambda: beside(url, "part").exists() and beside(url, "part").stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert nothing_usable(url)
    assert get(url).read_bytes() == CONTENT  # its lock died with it
    continued = server.ranges()[1]
    assert continued is not None
    assert 0 < int(continued.removeprefix("bytes=").rstrip("-")) <= 6000
    assert not beside(url, "part").exists()


def test_waiting_process_takes_over_when_the_downloader_is_killed(server, url):
    server.script = [server.stall(6000), server.proper()]
    first = start(url)
    wait_until(lambda: beside(url, "part").exists() and beside(url, "part").stat().st_size > 0)
    second = start(url)
    assert "Waiting" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=120)
    out, _ = second.communicate(timeout=120)
    assert out.strip() == str(cache_path(url))
    assert cache_path(url).read_bytes() == CONTENT


def test_complete_partial_file_needs_no_further_request(server, url, get, monkeypatch):
    """Killed between the last byte and the renaming."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dnnlib.download.replace_synced", killed)
        with pytest.raises(KeyboardInterrupt):
            get(url)
    assert nothing_usable(url)
    assert get(url).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_waiting_process_does_not_hash_again_what_the_other_has_just_recorded(server, url, get, monkeypatch):
    hashed = []

    @contextmanager
    def held_by_another(*_, **__):
        with monkeypatch.context() as patch:
            patch.setattr("dnnlib.download.exclusive", exclusive)
            get(url)
        monkeypatch.setattr("dnnlib.download.sha256_of", hashed.append)
        yield True

    monkeypatch.setattr("dnnlib.download.exclusive", held_by_another)
    assert get(url).read_bytes() == CONTENT
    assert hashed == []
    assert len(server.requests) == 1


def test_without_locks_every_process_has_its_own_partial_file(server, url, get, monkeypatch):
    def no_locks(_):
        raise OSError(37, "no locks available")

    monkeypatch.setattr("dnnlib.filelock._lock_now", no_locks)
    foreign = beside(url, "part")
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody else is writing this")
    assert get(url).read_bytes() == CONTENT
    assert foreign.read_bytes() == b"somebody else is writing this"
    server.script = [server.become(CONTENT, '"v1"', server.cut(5000)), server.answer(404)]
    server.requests.clear()
    with pytest.raises(DownloadError):
        get(url + "2")
    leftovers = [path for path in cache_path(url).parent.iterdir() if ".part" in path.name]
    assert leftovers == [foreign]


def test_secrets_of_urls_are_sent_and_neither_stored_nor_shown(url, server, get, capsys):
    """A link that is signed anew is the same file, also half-way through."""
    link = url.replace("http://", "http://me:secret@") + "?id=7&X-Amz-Signature=secret"
    server.script = [server.cut(4000), server.answer(404)]
    with pytest.raises(DownloadError, match="could not fetch") as caught:
        get(link)
    assert "secret" not in str(caught.value)
    assert "secret" not in beside(link, "part.json").read_text()
    server.script = [server.proper()]
    path = get(link.replace("Signature=secret", "Signature=another"), progress=True)
    assert path.read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=4000-", "it went on where it was cut"
    asked, headers = server.requests[0]
    assert asked.endswith("?id=7&X-Amz-Signature=secret")
    assert headers["Authorization"].startswith("Basic ")
    assert get(link) == path == cache_path(url + "?id=7")
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir() if file != path)
    assert b"secret" not in everything
    assert b"another" not in everything
    assert "secret" not in "".join(capsys.readouterr())
    assert recorded_sha256(link) == SHA


def test_a_socks_proxy_says_what_it_needs(url, get, monkeypatch):
    def manager(*args, **kwargs):  # what requests has in its place where PySocks is not installed
        raise InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", manager)
    with pytest.raises(DownloadError, match=r"SOCKS, which needs `pip install requests\[socks\]`") as caught:
        get(url)
    assert "secret" not in str(caught.value)


def test_a_cache_that_cannot_be_made_names_the_variable(url, get, tmp_path, monkeypatch):
    """As where the home folder is missing or belongs to somebody else."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.delenv("DNNLIB_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(OSError, match=r"home/\.cache/dnnlib/downloads cannot be made .*: set DNNLIB_CACHE_DIR"):
        get(url)


@pytest.mark.parametrize("suffix", ["pkl", "safetensors", "npz", "pt", "csv"])
def test_a_pointer_is_named_whatever_its_suffix(tmp_path, suffix):
    path = tmp_path / f"file.{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="is a Git LFS pointer"):
        fetch(path)
