"""Images behind http and https: proxies, passwords, redirects, odd addresses, and connections that break."""

from __future__ import annotations

import base64
import gzip
import hashlib
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from oneconvert.errors import NotAllowedError, SourceChangedError, TransferError
from oneconvert.transfer import http
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.http_request import MAX_REDIRECTS
from oneconvert.transfer.options import HttpOptions
from rig.front_end import Answer, FrontEnd, messages, processes_of, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.messages import Datastore
from rig.proxy import Proxy, serve_proxy
from rig.tls import make_certificate
from rig.web import Behaviour, Handler, Web, in_turn, ranges, redirect, send_file, serve, status, wait_until

CONTENT = (b"\0\xff" + b"content!" * (MIB // 8))[:MIB]
OTHER = (b"\0\xff" + b"changed!" * (MIB // 8))[:MIB]
ETAG = {"ETag": '"one"'}
ANYWHERE = AddressRules.of("allow", [])
OPTIONS = HttpOptions(5, 5, 0, None, 0, ANYWHERE, verify=True, ca_file=None, downgrade=False)


@pytest.fixture(scope="module")
def disk(images: Images) -> Path:
    """A small disk that is stored as it is."""
    path = images.file("small")
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture(scope="module")
def secure(images: Images, disk: Path, certificate: Path) -> Iterator[Web]:
    with serve(images.directory, certificate) as server:
        yield server


@pytest.fixture(scope="module")
def other(images: Images, disk: Path) -> Iterator[Web]:
    """Another host: the cookies and the passwords of the first are none of its business."""
    with serve(images.directory, host="127.0.0.2") as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with serve_proxy() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_requests_so_far(web: Web, disk: Path) -> None:
    web.requests.clear()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACK_OFF", 0.01)


impatient = pytest.mark.usefixtures("_impatient")


def download(front_end: FrontEnd, url: str, store: Datastore | None = None, /, **environment: str) -> Answer:
    document = messages().cp(42, url, 1, store or front_end.datastore("raw"))
    return front_end.call("cp", document, **environment)


def assert_stored(answer: Answer, content: bytes = CONTENT) -> None:
    assert answer.status == 0, answer.stderr
    assert answer.source.read_bytes() == content


def assert_refused(answer: Answer, words: str) -> None:
    assert (answer.status, answer.stdout) == (1, ""), answer
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert words in answer.stderr


def fetch(url: str, options: HttpOptions = OPTIONS) -> bytes:
    """Download by the library alone: what takes no import to see."""
    with http.open_url(url, options) as source:
        return b"".join(source)


def asked(web: Web) -> list[str]:
    """The parts that were asked for, '' for all."""
    return [headers.get("Range", "") for _, headers in web.requests]


# Addresses


def test_a_server_with_ipv6_only(front_end: FrontEnd, images: Images) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no ::1 here")
    with serve(images.directory, host="::1") as web:
        assert_stored(download(front_end, web.url("small")))
        with front_end.settings(private_addresses="refuse"):
            assert_refused(download(front_end, web.url("small")), "::1 is a private address")


@pytest.mark.parametrize(
    "writing",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "[::ffff:127.0.0.1]",
     "good@127.0.0.1", "127.0.0.2:80@127.0.0.1", "127.0.0.2%5c@127.0.0.1", "[::ffff:7f00:1]", "LOCALHOST"],
)  # fmt: skip
def test_a_forbidden_server_is_not_even_contacted(other: Web, writing: str) -> None:
    options = replace(OPTIONS, rules=AddressRules.of("refuse", ["127.0.0.2/32", "*"]))
    with socket.create_server(("", 0)) as forbidden:
        forbidden.settimeout(0)
        url = f"http://{writing}:{forbidden.getsockname()[1]}/small"
        other.pages["inside"] = redirect(url)
        for location in (url, other.url("inside")):
            with pytest.raises(NotAllowedError, match="private address"):
                fetch(location, options)
        with pytest.raises(BlockingIOError):
            forbidden.accept()
    assert fetch(other.url("small"), options) == CONTENT


def test_a_name_that_means_another_host_at_the_next_question(
    monkeypatch: pytest.MonkeyPatch, other: Web, disk: Path
) -> None:
    """DNS rebinding: the address that was judged is the one that is contacted."""
    real, answers = socket.getaddrinfo, iter(["127.0.0.2"])

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        return real(next(answers, "127.0.0.1") if host == "rebinds.example" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    options = replace(OPTIONS, rules=AddressRules.of("refuse", ["127.0.0.2/32"]))
    url = f"http://rebinds.example:{other.port}/small"
    assert fetch(url, options) == CONTENT
    with pytest.raises(NotAllowedError, match="private address"):
        fetch(url, options)


@pytest.mark.parametrize("scheme", ["ssh", "s3"])
def test_hosts_that_are_not_listed_are_refused_whatever_the_scheme(
    front_end: FrontEnd, web: Web, tmp_path: Path, scheme: str
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ssh.chmod(0o755)
    document = messages().cp(42, "ssh://127.0.0.1:/small", 1, front_end.datastore("raw"))
    if scheme == "s3":
        keys = "ACCESS_KEY_ID SECRET_ACCESS_KEY REGION"
        market = "".join(f"<{key}>x</{key}>" for key in keys.split())
        market += f"<ENDPOINT>{web.url('')}</ENDPOINT><AWS>no</AWS>"
        app = "<MARKETPLACE><ID>1</ID><MARKET_MAD>s3</MARKET_MAD><TEMPLATE>" + market + "</TEMPLATE></MARKETPLACE>"
        document = messages().cp(42, "s3://bucket/small", 1, front_end.datastore("raw"), attributes={"FROM_APP": 7})
        document = document.replace("</DS_DRIVER_ACTION_DATA>", app + "</DS_DRIVER_ACTION_DATA>")
    with front_end.settings(allowed_hosts="images.example.org"):
        answer = front_end.call("cp", document, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert_refused(answer, "127.0.0.1 is not among the allowed_hosts")
    assert not (tmp_path / "started").exists()
    assert web.requests == []


@pytest.mark.parametrize(
    "path", ["with%20blank", "with blank", "b%C3%BCrger", "bürger", "50%25", "a+b;c=d,'(e)", "%7Etilde"]
)
def test_a_path_may_have_any_character(other: Web, disk: Path, path: str) -> None:
    other.pages[quote(unquote(path), safe="+;=,'()~")] = send_file(disk)
    assert fetch(other.url(path)) == CONTENT


def test_a_long_query_reaches_the_server_and_nobody_else(front_end: FrontEnd, web: Web) -> None:
    query = "token=" + "Geheimnis" * 900
    told = front_end.log.stat().st_size if front_end.log.exists() else 0
    answer = download(front_end, web.url(f"small?{query}"))
    assert_stored(answer)
    assert web.requests[-1][0] == f"/small?{query}"
    assert "Geheimnis" not in answer.stdout + answer.stderr + front_end.log.read_text()[told:]


# Passwords


def test_a_password_is_for_its_server_only(front_end: FrontEnd, web: Web, other: Web, disk: Path) -> None:
    """It may hold characters that are no part of an address, and no list of processes shows it."""
    given, seen = "user:Gehe:im@nis", []

    def ask_for_password(request: Handler) -> None:
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(command.read_bytes())
            except OSError:
                continue
        right = f"Basic {base64.b64encode(given.encode()).decode()}"
        behaviour = redirect(other.url("small")) if request.headers.get("Authorization") == right else status(401)
        behaviour(request)

    web.pages["locked"] = ask_for_password
    other.requests.clear()
    url = web.url("locked").replace("//", f"//user:{quote('Gehe:im@nis', safe='')}@")
    answer = download(front_end, url)
    assert_stored(answer)
    assert "Authorization" not in other.requests[-1][1]
    for word in ("Gehe", base64.b64encode(given.encode()).decode()):
        assert word not in answer.stdout + answer.stderr + front_end.log.read_text()
        assert not any(word.encode() in command for command in seen)
    assert_refused(download(front_end, url.replace("Gehe", "Wrong")), "401")


# Redirects


def test_redirects_may_be_many_but_not_endless(web: Web, disk: Path) -> None:
    web.pages["chain/0"] = send_file(disk)
    for number in range(MAX_REDIRECTS + 1):
        web.pages[f"chain/{number + 1}"] = redirect(str(number))
    assert fetch(web.url(f"chain/{MAX_REDIRECTS}")) == CONTENT
    with pytest.raises(TransferError, match=f"more than {MAX_REDIRECTS} redirects"):
        fetch(web.url(f"chain/{MAX_REDIRECTS + 1}"))


@pytest.mark.parametrize("location", ["small", "./a/../small", "/small", "//{host}/small", "?again"])
def test_a_redirect_may_be_relative(web: Web, disk: Path, location: str) -> None:
    there = redirect(location.format(host=f"127.0.0.1:{web.port}"))
    web.pages["relative"] = lambda request: (send_file(disk) if "?" in request.path else there)(request)
    assert fetch(web.url("relative")) == CONTENT


def test_from_https_to_http_only_with_a_checksum(front_end: FrontEnd, web: Web, secure: Web, certificate: Path) -> None:
    secure.pages["down"] = redirect(web.url("small"))
    store = front_end.datastore("raw")
    checksum = {"SHA256": hashlib.sha256(CONTENT).hexdigest()}
    with front_end.settings(tls_ca_file=certificate):
        assert_refused(download(front_end, secure.url("down"), store), "from https to http")
        assert web.requests == []
        assert_stored(front_end.call("cp", messages().cp(42, secure.url("down"), 1, store, attributes=checksum)))


# Proxies


def test_a_proxy_of_the_environment(front_end: FrontEnd, web: Web, proxy: Proxy) -> None:
    """It looks the name up, which nobody else can."""
    url = f"http://images.example:{web.port}/small"
    answer = download(front_end, url, http_proxy=proxy.url.replace("//", "//user:Geheimnis@"))
    assert_stored(answer)
    assert proxy.asked == [("GET", url)]
    assert proxy.credentials == [f"Basic {base64.b64encode(b'user:Geheimnis').decode()}"]
    assert "Geheimnis" not in answer.stderr + front_end.log.read_text()
    assert "Proxy-Authorization" not in web.requests[-1][1]
    with front_end.settings(allowed_hosts="*.example.org"):
        assert_refused(download(front_end, url, http_proxy=proxy.url), "images.example is not among the allowed_hosts")
    assert len(proxy.asked) == 1


def test_a_proxy_tunnels_https(front_end: FrontEnd, secure: Web, certificate: Path, proxy: Proxy) -> None:
    with front_end.settings(tls_ca_file=certificate):
        assert_stored(download(front_end, secure.url("small"), https_proxy=proxy.url))
    assert proxy.asked == [("CONNECT", f"127.0.0.1:{secure.port}")]


def test_hosts_of_no_proxy_are_asked_directly_redirects_included(
    monkeypatch: pytest.MonkeyPatch, web: Web, other: Web, proxy: Proxy
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(web.url("small")) == CONTENT
    assert proxy.asked == []
    outside = f"http://images.example:{web.port}/small"
    web.pages["outwards"] = redirect(outside)
    assert fetch(web.url("outwards")) == CONTENT
    assert proxy.asked == [("GET", outside)]
    web.pages["inwards"] = redirect(web.url("small"))
    assert fetch(f"http://images.example:{web.port}/inwards") == CONTENT
    assert proxy.asked[1:] == [("GET", f"http://images.example:{web.port}/inwards")]


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    monkeypatch.setattr(http, "BACK_OFF", 0.01)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(TransferError, match="the proxy cannot be reached"):
        fetch(web.url("small"))


# Encodings


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/x-gzip", "nonsense"])
def test_what_the_server_calls_it_does_not_matter(web: Web, kind: str) -> None:
    def send(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT)

    web.pages["called"] = send
    assert fetch(web.url("called")) == CONTENT


def test_a_checksum_is_that_of_the_bytes_that_were_sent(front_end: FrontEnd, web: Web) -> None:
    packed = gzip.compress(CONTENT)

    def send(request: Handler) -> None:
        assert request.headers["Accept-Encoding"] == "identity"
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(packed)))
        request.end_headers()
        request.wfile.write(packed)

    web.pages["encoded"] = send
    checksum = {"MD5": hashlib.md5(packed).hexdigest()}
    document = messages().cp(42, web.url("encoded"), 1, front_end.datastore("raw"), attributes=checksum)
    assert_stored(front_end.call("cp", document))


# Connections that break


@pytest.mark.parametrize("validators", [ETAG, {"Last_Modified": "Tue, 03 Nov 2026 10:00:00 GMT"}])
def test_a_download_goes_on_where_it_broke(
    front_end: FrontEnd, web: Web, disk: Path, validators: dict[str, str]
) -> None:
    breaks = [1, MIB - 1]
    web.pages["breaks"] = ranges(disk, breaks, **validators)
    checksum = {"SHA256": hashlib.sha256(CONTENT).hexdigest()}
    document = messages().cp(42, web.url("breaks"), 1, front_end.datastore("raw"), attributes=checksum)
    assert_stored(front_end.call("cp", document))
    assert asked(web) == ["", *(f"bytes={offset}-" for offset in breaks)], "each byte once"
    assert {headers["If-Range"] for _, headers in web.requests[1:]} == set(validators.values())


@pytest.mark.parametrize("name", ["vmdk-sparse", "raw.gz", "vmdk-stream"])
def test_it_breaks_while_it_is_unpacked_and_converted(front_end: FrontEnd, images: Images, web: Web, name: str) -> None:
    size = images.file(name).stat().st_size
    web.pages["breaks"] = ranges(images.file(name), [size // 3, size - 1000], **ETAG)
    answer = front_end.call("cp", messages().cp(42, web.url("breaks"), SIZE_MB, front_end.datastore("qcow2")))
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")
    assert [part for part in asked(web) if part.endswith("-")] == [f"bytes={size // 3}-", f"bytes={size - 1000}-"]


@impatient
@pytest.mark.parametrize("breaks", [[1000] * 99, range(1000, 99_000, 1000)], ids=["never", "hardly"])
def test_a_server_that_does_not_go_on_is_given_up(web: Web, disk: Path, breaks: Sequence[int]) -> None:
    web.pages["breaks"] = ranges(disk, breaks, **ETAG)
    words = rf"^http://127.0.0.1:\d+/breaks: .*incomplete.* after {breaks[http.RETRIES]} of {MIB} bytes$"
    with pytest.raises(TransferError, match=words):
        fetch(web.url("breaks"))
    assert len(web.requests) == 1 + http.RETRIES


@impatient
def test_a_long_way_forward_gives_new_tries(web: Web, images: Images) -> None:
    web.pages["breaks"] = ranges(images.file("raw"), range(2 * MIB, SIZE_MB * MIB, 2 * MIB), **ETAG)
    assert fetch(web.url("breaks")) == images.file("raw").read_bytes()


@pytest.mark.parametrize("again", [{"ETag": '"two"'}, {"Last_Modified": "Wed, 04 Nov 2026 10:00:00 GMT"}])
def test_a_file_that_changes_meanwhile_is_fetched_anew(
    front_end: FrontEnd, images: Images, web: Web, disk: Path, again: dict[str, str]
) -> None:
    changed = images.file("changed")
    changed.write_bytes(OTHER)
    web.pages["changes"] = in_turn(ranges(disk, [300_000], **ETAG), ranges(changed, **again))
    store = front_end.datastore("raw")
    answer = download(front_end, web.url("changes"), store)
    assert_stored(answer, OTHER)
    assert asked(web) == ["", "bytes=300000-", ""]
    assert front_end.left_in(store) == [answer.source.name]


def test_a_file_that_never_stays_the_same_is_refused(front_end: FrontEnd, web: Web, disk: Path) -> None:
    versions = iter(range(99))
    web.pages["restless"] = lambda request: ranges(disk, [300_000], ETag=f'"{next(versions)}"')(request)
    store = front_end.datastore("raw")
    assert_refused(download(front_end, web.url("restless"), store), "was changed while it was downloaded")
    assert front_end.left_in(store) == []


@impatient
@pytest.mark.parametrize("sent", ["bytes 0-1048575/1048576", "bytes 1000-1048575/*", "bytes 1000-1048575/9", "", "x"])
def test_another_part_than_the_one_that_is_missing(web: Web, disk: Path, sent: str) -> None:
    def lie(request: Handler) -> None:
        request.send_response(206)
        request.send_header("Content-Range", sent)
        request.send_header("Content-Length", str(MIB - 1000))
        request.end_headers()
        request.wfile.write(CONTENT[1000:])

    web.pages["lies"] = in_turn(ranges(disk, [1000], **ETAG), lie)
    with pytest.raises(TransferError, match="another part"):
        fetch(web.url("lies"))


@impatient
@pytest.mark.parametrize(
    ("before", "after"), [(ETAG, {"ETag": '"two"'}), ({"Last_Modified": "then"}, {"Last_Modified": "now"})]
)
def test_a_part_of_another_file_is_not_taken(
    web: Web, disk: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    """Some servers give parts whatever If-Range says."""

    def careless(request: Handler) -> None:
        del request.headers["If-Range"]
        request.headers["If-Range"] = next(iter(after.values()))
        ranges(disk, **after)(request)

    web.pages["careless"] = in_turn(ranges(disk, [1000], **before), careless)
    with pytest.raises(SourceChangedError):
        fetch(web.url("careless"))


def test_the_time_for_all_includes_that_for_an_answer(web: Web) -> None:
    web.pages["silent"] = silence
    with pytest.raises(TransferError, match="transfer_timeout"):
        fetch(web.url("silent"), replace(OPTIONS, transfer_timeout=0.5))


@impatient
@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}, {**ETAG, "Accept_Ranges": "none"}])
def test_without_a_validator_or_parts_a_break_is_the_end(web: Web, disk: Path, headers: dict[str, str]) -> None:
    web.pages["breaks"] = ranges(disk, [1000], **headers)
    with pytest.raises(TransferError, match="incomplete"):
        fetch(web.url("breaks"))
    assert asked(web) == [""]


@impatient
@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(web: Web, disk: Path, code: int) -> None:
    web.pages["busy"] = in_turn(status(code), status(code), send_file(disk))
    assert fetch(web.url("busy")) == CONTENT
    web.pages["busy"] = status(code)
    web.requests.clear()
    with pytest.raises(TransferError, match=str(code)):
        fetch(web.url("busy"))
    assert len(web.requests) == 1 + http.FIRST_RETRIES


@impatient
def test_a_server_that_is_busy_when_the_download_goes_on(web: Web, disk: Path) -> None:
    content = ranges(disk, [1000], **ETAG)
    web.pages["busy"] = in_turn(content, status(503), status(503), content)
    assert fetch(web.url("busy")) == CONTENT


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 429, 500])
def test_other_answers_are_final(web: Web, code: int) -> None:
    web.pages["final"] = status(code)
    with pytest.raises(TransferError, match=str(code)):
        fetch(web.url("final"))
    assert len(web.requests) == 1


def silence(request: Handler) -> None:
    time.sleep(4)
    request.close_connection = True


@pytest.mark.parametrize("then", [status(503), silence], ids=["waiting", "asking"])
def test_a_signal_between_the_tries(front_end: FrontEnd, web: Web, disk: Path, then: Behaviour) -> None:
    web.pages["breaks"] = in_turn(ranges(disk, [1000], **ETAG), then)
    store = front_end.datastore("raw")
    process = front_end.begin("cp", messages().cp(42, web.url("breaks"), 1, store))
    assert wait_until(lambda: len(web.requests) >= (4 if then is not silence else 2))
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 2
    assert front_end.left_in(store) == []
    assert processes_of(process.pid) == []
