"""Images behind s3://, from the S3 server of moto, with a check of signatures in front of it.

moto is a mock of Amazon's services that speaks their real protocols. It does not verify the signature of a presigned
URL, so that is done here, after Amazon's documentation and without the library that made it.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
import requests
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from oneconvert.errors import OneconvertError, SettingsError
from oneconvert.transfer.options import S3Credentials
from oneconvert.transfer.s3 import presigned_url
from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.messages import App, Datastore
from rig.running import running
from rig.web import wait_until

KEY = "AKIAMARKETPLACE"
SECRET = "Geheim/nis+der=Tests"
BUCKET = "market"
REGION = "eu-central-1"
ODD_KEYS = (
    "marketapp-7",
    "a/with blanks/ünï çødé.vmdk",
    "1+1=2 & 50%/%41?x=1#y.vmdk",
    'it\'s $(id) `id` "quoted" ~ (*).vmdk',
    "/leading//twice",
    "x" * 900,
)

App_ = Callable[[dict[str, Any], Any], Iterable[bytes]]


def refusal(method: str, uri: str, host: str) -> str | None:
    """What Amazon would answer to a presigned request that is not right, as the code of the error."""
    path, _, query = uri.partition("?")
    given = parse_qs(query)
    if not {"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires"} <= set(given):
        return "AccessDenied"
    key, *scope = given["X-Amz-Credential"][0].split("/")
    date = given["X-Amz-Date"][0]
    signed = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    age = (datetime.datetime.now(datetime.timezone.utc) - signed).total_seconds()
    if key != KEY:
        return "InvalidAccessKeyId"
    if scope != [date[:8], REGION, "s3", "aws4_request"] or not -60 < age < int(given["X-Amz-Expires"][0]):
        return "AccessDenied"
    arguments = sorted(each for each in query.split("&") if not each.startswith("X-Amz-Signature="))
    canonical = [method, quote(unquote(path), safe="/~"), "&".join(arguments), f"host:{host}", "", "host",
                 "UNSIGNED-PAYLOAD"]  # fmt: skip
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    signing = f"AWS4{SECRET}".encode()
    for part in scope:
        signing = hmac.new(signing, part.encode(), "sha256").digest()
    text = "\n".join(["AWS4-HMAC-SHA256", date, "/".join(scope), digest])
    expected = hmac.new(signing, text.encode(), "sha256").hexdigest()
    return None if hmac.compare_digest(expected, given["X-Amz-Signature"][0]) else "SignatureDoesNotMatch"


@dataclass
class S3Server:
    """moto behind the check. ``cut`` and ``stall`` name keys of which only 2 MiB are sent."""

    url: str = ""
    cut: set[str] = field(default_factory=set)
    stall: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    refused: list[str] = field(default_factory=list)

    def guard(self, moto: App_) -> App_:
        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            uri = environ["REQUEST_URI"]
            if environ["REQUEST_METHOD"] != "GET":  # the tests storing an object
                return moto(environ, start_response)
            code = refusal("GET", uri, environ["HTTP_HOST"])
            if code:
                self.refused.append(code)
                body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()
                start_response("403 Forbidden", [("Content-Length", str(len(body)))])
                return [body]
            key = unquote(urlsplit(uri).path).split("/", 2)[2]
            body_chunks = moto(environ, start_response)
            return self._partly(body_chunks, key) if key in self.cut | self.stall else body_chunks

        return application

    def _partly(self, chunks: Iterable[bytes], key: str) -> Iterator[bytes]:
        yield b"".join(chunks)[: 2 * MIB]
        if key in self.stall:
            self.released.wait(60)

    def put(self, key: str, content: Path, bucket: str = BUCKET) -> None:
        scope = f"Credential={KEY}/20260101/us-east-1/s3/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
        requests.put(f"{self.url}/{quote(bucket)}", headers=headers, timeout=10).raise_for_status()
        answer = requests.put(
            f"{self.url}/{quote(bucket)}/{quote(key)}", content.read_bytes(), headers=headers, timeout=10
        )
        answer.raise_for_status()

    def attributes(self, **changes: str) -> dict[str, str]:
        """A marketplace as the documentation of OpenNebula has it for servers other than Amazon's."""
        return {
            "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "REGION": REGION, "ENDPOINT": self.url, "AWS": "no",
            "SIGNATURE_VERSION": "s3", "FORCE_PATH_STYLE": "YES", "BUCKET": BUCKET, **changes,
        }  # fmt: skip


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    http = make_server("127.0.0.1", 0, server.guard(DomainDispatcherApplication(create_backend_app)), threaded=True)
    server.url = f"http://127.0.0.1:{http.port}"
    with running(http):
        try:
            yield server
        finally:
            server.released.set()


@pytest.fixture(scope="module")
def s3(images: Images) -> Iterator[S3Server]:
    with serve_s3() as server:
        for key in (*ODD_KEYS, "cut", "stall"):
            server.put(key, images.file("vmdk-sparse" if key in ("cut", "stall") else "vmdk-stream"))
        yield server


def document(path: str, store: Datastore, release: str = "7.4", md5: str = "-", **attributes: str) -> str:
    text = messages(release).cp(42, path, SIZE_MB, store, app=App(7, "alpine", md5, "", "s3"))
    template = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in attributes.items())
    return text.replace("</TEMPLATE></MARKETPLACE>", f"{template}</TEMPLATE></MARKETPLACE>")


def download(front_end: FrontEnd, key: str, store: Datastore, bucket: str = BUCKET, **attributes: str) -> Answer:
    return front_end.call("cp", document(f"s3://{bucket}/{key}", store, **attributes))


def assert_refused(front_end: FrontEnd, answer: Answer, store: Datastore, *words: str) -> None:
    assert (answer.status, answer.stdout) == (1, ""), answer
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    for word in words:
        assert word in answer.stderr
    assert front_end.left_in(store) == []
    assert_no_secret(front_end, answer)


def assert_no_secret(front_end: FrontEnd, answer: Answer) -> None:
    for secret in (KEY, SECRET, quote(SECRET, safe=""), "X-Amz-", "Traceback"):
        assert secret not in answer.stderr
        assert secret not in front_end.log.read_text()


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_object_is_imported_whatever_its_name(front_end: FrontEnd, images: Images, s3: S3Server, key: str) -> None:
    store = front_end.datastore("qcow2")
    md5 = hashlib.md5(images.file("vmdk-stream").read_bytes()).hexdigest()
    answer = download(front_end, key, store, md5=md5, **s3.attributes())
    assert answer.status == 0, answer.stderr
    assert answer.format == "qcow2"
    assert same_disk(answer.source, "qcow2", images.file("raw"), "raw")
    assert_no_secret(front_end, answer)


@pytest.mark.parametrize("release", ["5.12", "6.4"])
def test_every_release_names_the_keys_in_the_same_way(front_end: FrontEnd, s3: S3Server, release: str) -> None:
    store = front_end.datastore("raw")
    text = document("s3://market/marketapp-7", store, release, **s3.attributes())
    answer = front_end.call("cp", text, release=release)
    assert answer.status == 0, answer.stderr
    assert_no_secret(front_end, answer)


@pytest.mark.parametrize("bucket", ["Market.Apps", "with blanks + ü"])
def test_an_old_bucket_may_have_an_odd_name(front_end: FrontEnd, images: Images, s3: S3Server, bucket: str) -> None:
    s3.put("image", images.file("vmdk-stream"), bucket)
    answer = download(front_end, "image", front_end.datastore(), bucket, **s3.attributes())
    assert answer.status == 0, answer.stderr


@pytest.mark.parametrize("changes", [{"AWS": ""}, {"SIGNATURE_VERSION": ""}, {"SIGNATURE_VERSION": "v4"}])
def test_an_endpoint_is_enough_to_name_another_server(
    front_end: FrontEnd, s3: S3Server, changes: dict[str, str]
) -> None:
    answer = download(front_end, "marketapp-7", front_end.datastore(), **s3.attributes(**changes))
    assert answer.status == 0, answer.stderr


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"SECRET_ACCESS_KEY": "another"}, "SignatureDoesNotMatch"),
        ({"ACCESS_KEY_ID": "AKIANOBODY"}, "InvalidAccessKeyId"),
        ({"REGION": "us-west-2"}, "AccessDenied"),
    ],
)
def test_a_wrong_key(front_end: FrontEnd, s3: S3Server, changes: dict[str, str], code: str) -> None:
    store = front_end.datastore()
    answer = download(front_end, "marketapp-7", store, **s3.attributes(**changes))
    assert_refused(front_end, answer, store, "s3://market/marketapp-7: the server refuses", "SECRET_ACCESS_KEY")
    assert s3.refused[-1] == code
    for value in changes.values():
        assert value not in answer.stderr


@pytest.mark.parametrize("bucket", [BUCKET, "nowhere"])
def test_an_object_that_is_not_there(front_end: FrontEnd, s3: S3Server, bucket: str) -> None:
    store = front_end.datastore()
    answer = download(front_end, "missing", store, bucket, **s3.attributes())
    assert_refused(front_end, answer, store, f"s3://{bucket}/missing: there is no such object")


def test_a_connection_that_breaks_is_made_again(front_end: FrontEnd, images: Images, s3: S3Server) -> None:
    s3.cut.add("cut")
    answer = download(front_end, "cut", front_end.datastore(), **s3.attributes())
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("vmdk-sparse"), "vmdk", answer.source, "qcow2")
    assert f"ended after {2 * MIB} of" in front_end.log.read_text()


def test_a_wrong_checksum(front_end: FrontEnd, s3: S3Server) -> None:
    store = front_end.datastore()
    answer = download(front_end, "marketapp-7", store, md5="0" * 32, **s3.attributes())
    assert_refused(front_end, answer, store, "FROM_APP_MD5")


def test_a_marketplace_that_cannot_be_used(front_end: FrontEnd, s3: S3Server) -> None:
    store = front_end.datastore()
    endpoint = f"http://{KEY}:{quote(SECRET, safe='')}@127.0.0.1"
    answer = download(front_end, "x", store, **s3.attributes(ENDPOINT=endpoint))
    assert_refused(front_end, answer, store, "ENDPOINT of the marketplace is not a URL such as")


@pytest.mark.parametrize("changes", [{"SECRET_ACCESS_KEY": ""}, {"ACCESS_KEY_ID": ""}])
def test_a_marketplace_without_a_key(front_end: FrontEnd, s3: S3Server, changes: dict[str, str]) -> None:
    store = front_end.datastore()
    assert_refused(front_end, download(front_end, "x", store, **s3.attributes(**changes)), store, *changes)


def test_an_image_that_comes_from_no_marketplace_has_no_keys(front_end: FrontEnd) -> None:
    store = front_end.datastore()
    answer = front_end.call("cp", messages().cp(42, "s3://market/x", SIZE_MB, store))
    assert_refused(front_end, answer, store, "keys of the marketplace")


def test_a_signal_during_the_download(front_end: FrontEnd, s3: S3Server) -> None:
    store = front_end.datastore()
    s3.stall.add("stall")
    process, stdin = front_end.start("cp", document("s3://market/stall", store, **s3.attributes()))
    process.stdin.write(stdin)  # type: ignore[union-attr]
    process.stdin.close()  # type: ignore[union-attr]
    assert wait_until(lambda: any(name.endswith("source") for name in front_end.left_in(store)))
    shown = [path.read_bytes() for path in Path("/proc").glob(f"{process.pid}/cmdline")]
    assert shown
    assert SECRET.encode() not in b"".join(shown)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert front_end.left_in(store) == []
    error = process.stderr.read().decode()  # type: ignore[union-attr]
    assert_no_secret(front_end, Answer(1, "", error, 0))


def keys(**attributes: str) -> S3Credentials:
    return S3Credentials(KEY, SECRET, **{"region": REGION, **attributes})


@pytest.mark.parametrize(
    ("location", "attributes", "address"),
    [
        ("s3://market/a b", {}, "https://market.s3.eu-central-1.amazonaws.com/a%20b"),
        ("s3://market/a", {"aws": "yes"}, "https://market.s3.eu-central-1.amazonaws.com/a"),
        ("s3://market/a", {"aws": "YES", "endpoint": "http://x"}, "https://market.s3.eu-central-1.amazonaws.com/a"),
        ("s3://market/a", {"region": ""}, "https://market.s3.us-east-1.amazonaws.com/a"),
        ("s3://market/a", {"region": "cn-north-1"}, "https://market.s3.cn-north-1.amazonaws.com.cn/a"),
        ("s3://market/a", {"force_path_style": "YES"}, "https://s3.eu-central-1.amazonaws.com/market/a"),
        ("s3://my.market/a", {}, "https://s3.eu-central-1.amazonaws.com/my.market/a"),
        ("s3://My_Market/a", {}, "https://s3.eu-central-1.amazonaws.com/My_Market/a"),
        ("s3://market//a", {}, "https://s3.eu-central-1.amazonaws.com/market//a"),
        ("s3://m@evil.org:1/a", {}, "https://s3.eu-central-1.amazonaws.com/m%40evil.org%3A1/a"),
        ("s3://market/a", {"endpoint": "https://h:8443/s3/", "aws": "no"}, "https://h:8443/s3/market/a"),
        ("s3://market/a", {"endpoint": "http://[::1]:80", "aws": "NO"}, "http://[::1]:80/market/a"),
    ],
)
def test_where_an_object_is(location: str, attributes: dict[str, str], address: str) -> None:
    url = presigned_url(location, keys(**attributes))
    assert url.partition("?")[0] == address
    prepared = requests.Request("GET", url).prepare()
    assert prepared.url == url, "what is asked for is what was signed"


@pytest.mark.parametrize(
    ("location", "attributes", "words"),
    [
        ("s3://market/x", {"signature_version": "v2"}, "SIGNATURE_VERSION=v2"),
        ("s3://market/x", {"endpoint": "ceph.example.org"}, "ENDPOINT"),
        ("s3://market/x", {"endpoint": "file:///etc"}, "ENDPOINT"),
        ("s3://market/x", {"endpoint": f"http://{KEY}:{SECRET}@127.0.0.1"}, "ENDPOINT"),
        ("s3://market/x", {"endpoint": "http://h:port"}, "ENDPOINT"),
        ("s3://market/x", {"endpoint": "http://h/?x"}, "ENDPOINT"),
        ("s3://market/x", {"aws": "no"}, "ENDPOINT"),
        ("s3://market/x", {"region": "a/b"}, "REGION"),
        ("s3://market/x", {"region": "evil.org/#"}, "REGION"),
        ("s3://market", {}, "s3://bucket/key"),
        ("s3:///key", {}, "s3://bucket/key"),
        ("s3://market/", {}, "s3://bucket/key"),
        ("s3://market/a/../b", {}, "'..'"),
        ("s3://market/./b", {}, "'.'"),
        ("s3://../market/b", {}, "'..'"),
        ("s3://market/a\nb", {}, "control characters"),
    ],
)
def test_what_cannot_be_asked_for(location: str, attributes: dict[str, str], words: str) -> None:
    with pytest.raises(OneconvertError) as caught:
        presigned_url(location, keys(**attributes))
    assert words in caught.value.sentence
    assert SECRET not in caught.value.sentence


def test_the_signature_is_the_one_of_the_documentation() -> None:
    """Verified by the code above, which knows nothing of botocore; a change of anything makes it invalid."""
    url = urlsplit(presigned_url("s3://market/a b/ü+%41~", keys()))
    uri = f"{url.path}?{url.query}"
    assert refusal("GET", uri, url.netloc) is None
    assert refusal("PUT", uri, url.netloc) == "SignatureDoesNotMatch"
    assert refusal("GET", uri.replace("%C3%BC", "u"), url.netloc) == "SignatureDoesNotMatch"
    assert refusal("GET", uri, "other.example.org") == "SignatureDoesNotMatch"


def test_nothing_shows_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    assert SECRET not in repr(keys())
    assert KEY not in repr(keys())
    with pytest.raises(SettingsError) as caught:
        presigned_url("s3://market/a", keys(signature_version="v2"))
    error: BaseException | None = caught.value
    while error is not None:
        assert isinstance(error, OneconvertError)
        assert SECRET not in repr(error)
        error = error.__cause__ or error.__context__
    assert SECRET not in caplog.text


def test_only_s3_pays_for_the_library() -> None:
    code = "import sys, oneconvert.actions.datastore; sys.exit(any(name.startswith('boto') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
