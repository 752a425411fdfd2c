"""Servers: redirects that leave the web, lengths that lie, answers that never end or never come, wrong checksums."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Iterator

from hostile.archives import disk
from hostile.case import HARMLESS, Case, Scene, send
from hostile.images import backed, image
from rig.images import MIB
from rig.web import Behaviour, Handler, redirect

REDIRECT = "redirect"
BODY = disk()
PATIENCE = {"idle_timeout": 1, "connect_timeout": 1}
SILENT, NOT_HTTP = "does not answer", "not understood"
# The server of the tests may be asked, and no other on this host.
FENCED = {"private_addresses": "refuse", "allowed_hosts": "127.0.0.1"}


def leads_to(target: str) -> Callable[[Scene], Behaviour]:
    return lambda scene: redirect(target.replace("{canary}", str(scene.canary)).replace("{port}", str(scene.web.port)))


def says(head: bytes, *pieces: bytes, times: int = 1, pause: float = 0.0) -> Callable[[Scene], Behaviour]:
    """Send bytes that need not be HTTP; the pieces again and again, with pauses."""

    def behave(request: Handler) -> None:
        request.close_connection = True
        request.wfile.write(head)
        request.wfile.flush()
        for _ in range(times):
            for piece in pieces:
                time.sleep(pause)
                request.wfile.write(piece)
                request.wfile.flush()

    return lambda scene: behave


def answer(status: str, *headers: str, body: bytes = BODY) -> Callable[[Scene], Behaviour]:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", "Connection: close", *headers, ""))
    return says(head.encode(), body)


def page(data: Callable[[], bytes], **headers: str) -> Callable[[Scene], Behaviour]:
    return lambda scene: send(data(), **headers)


def silent(head: bytes) -> Callable[[Scene], Behaviour]:
    """Send this and then nothing for a while."""
    return says(head, b"", times=1, pause=4)


def endless() -> Iterator[bytes]:
    yield from iter(lambda: bytes(MIB), b"")


def never_ends(request: Handler) -> None:
    request.close_connection = True
    request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for piece in endless():
        request.wfile.write(piece)


def changes(scene: Scene) -> Behaviour:
    """An image at first, a page afterwards: what is checked must be what is stored."""
    answers = iter((image("qcow2"),))
    return lambda request: send(next(answers, b"<html>gone</html>"))(request)


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
REDIRECTS = (
    Case("redirect-file", "has the client read a file of the host", leads_to("file://{canary}"), REDIRECT,
         "CVE-2013-0249"),
    Case("redirect-gopher", "has the client speak to servers inside", leads_to("gopher://127.0.0.1:6379/_INFO"),
         REDIRECT, "CVE-2026-34881"),
    Case("redirect-ftp", "leaves the protocols that are limited here", leads_to("ftp://127.0.0.1/image"), REDIRECT),
    Case("redirect-data", "carries the image in its own address", leads_to("data:application/octet-stream,QFI"),
         REDIRECT),
    Case("redirect-ssh", "uses the keys of oneadmin", leads_to("ssh://127.0.0.1/etc/passwd"), REDIRECT),
    Case("redirect-empty", "leads nowhere", leads_to(""), "answered 302"),
    Case("redirect-loop", "leads back for ever",
         lambda scene: lambda request: redirect(request.path)(request), "redirects"),
    Case("redirect-credentials", "has a password of its own in the address",
         lambda scene: redirect(scene.web.url("qcow2").replace("//", "//user:word@")), HARMLESS),
    Case("redirect-shell", "has an address that a shell would run",
         lambda scene: redirect(f"http://$(touch {scene.spoils})/x"), "no host of that name"),
)  # fmt: skip

INSIDE = (
    Case("redirect-metadata", "has the host tell its cloud's credentials", leads_to("http://169.254.169.254/latest/"),
         "metadata service", "CWE-918"),
    Case("redirect-metadata-mapped", "writes the same address as one of IPv6",
         leads_to("http://[::ffff:169.254.169.254]/latest/"), "metadata service", "CWE-918"),
    Case("redirect-metadata-number", "writes it as one number", leads_to("http://2852039166/latest/"),
         "metadata service", "CWE-918"),
    Case("redirect-inside", "has the host ask a server behind the firewall", leads_to("http://127.0.0.2:{port}/qcow2"),
         "private address", "CWE-918", settings=FENCED),
    Case("redirect-unspecified", "writes this host as no address at all", leads_to("http://0:{port}/qcow2"),
         "private address", "CWE-918", settings=FENCED),
    Case("redirect-userinfo", "has the good host for a user's name", leads_to("http://127.0.0.1@127.0.0.2/qcow2"),
         "private address", "CWE-918", settings=FENCED),
    Case("redirect-backslash", "has the good host before a backslash",
         leads_to("http://127.0.0.1\\@127.0.0.2/qcow2"), "private address", "CWE-918, CVE-2016-8624",
         settings=FENCED),
    Case("redirect-not-listed", "leads to a host that nobody listed", leads_to("http://203.0.113.1/image"),
         "allowed_hosts", "CWE-918", settings={"allowed_hosts": "127.0.0.1"}),
)  # fmt: skip

LENGTHS = (
    Case("length-too-large", "announces more than comes", answer("200 OK", f"Content-Length: {len(BODY) + 1}"),
         "incomplete"),
    Case("length-too-small", "has more to say than announced", answer("200 OK", "Content-Length: 1000"), HARMLESS),
    Case("length-negative", "announces less than nothing", answer("200 OK", "Content-Length: -1"), HARMLESS),
    Case("length-2-70", "announces more than any disk holds", answer("200 OK", f"Content-Length: {1 << 70}"),
         "incomplete"),
    Case("length-two", "announces two lengths",
         answer("200 OK", "Content-Length: 1000", f"Content-Length: {len(BODY)}"), "not understood",
         "CWE-444"),
    Case("chunk-cut", "ends without the last chunk",
         answer("200 OK", "Transfer-Encoding: chunked", body=b"%x\r\n" % len(BODY) + BODY + b"\r\n"),
         "incomplete"),
    Case("chunk-lies", "has a chunk that is shorter than it says",
         answer("200 OK", "Transfer-Encoding: chunked", body=b"ffffffff\r\n" + BODY), "incomplete"),
    Case("chunk-negative", "has a chunk of less than nothing",
         answer("200 OK", "Transfer-Encoding: chunked", body=b"-5\r\n" + BODY + b"\r\n0\r\n\r\n"), "incomplete"),
    Case("chunk-and-length", "has both a length and chunks",
         answer("200 OK", "Content-Length: 5", "Transfer-Encoding: chunked",
                body=b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"), HARMLESS, "CWE-444"),
    Case("partial-unasked", "sends a part where the whole was asked for",
         answer("206 Partial Content", "Content-Range: bytes 0-999/99999", "Content-Length: 1000"), "206"),
    Case("not-modified", "says that nothing changed since never", answer("304 Not Modified", body=b""), "304"),
)  # fmt: skip

TIMES = (
    Case("redirect-body-endless", "redirects, with a body that never ends",
         says(b"HTTP/1.1 302 Found\r\nLocation: /missing\r\nConnection: close\r\n\r\n", bytes(MIB), times=4000),
         "404"),
    Case("trailers-never-end", "has all of its image and goes on with trailers",
         says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n",
              b"X: y\r\n", times=200, pause=0.1), "stopped sending", settings=PATIENCE, seconds=10.0),
    Case("chunk-extension-drips", "has a chunk whose size is never told to its end",
         says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000;", b"x", times=100, pause=0.2),
         "stopped sending", settings=PATIENCE, seconds=10.0),
    Case("headers-never-end", "sends headers for ever",
         says(OK, b"X-Header: " + b"x" * 1000 + b"\r\n", times=100_000), NOT_HTTP),
    Case("header-line-never-ends", "sends one header for ever", says(OK + b"X: ", b"x" * 65536, times=1000), NOT_HTTP),
    Case("continue-for-ever", "says 'go on' for ever", says(b"", b"HTTP/1.1 100 Continue\r\n\r\n", times=2_000_000),
         SILENT, settings=PATIENCE, seconds=6.0),
    Case("silent-before-answer", "takes the question and says nothing", silent(b""), SILENT,
         settings=PATIENCE),
    Case("silent-in-headers", "stops within its headers", silent(OK + b"X-Some"), SILENT, settings=PATIENCE),
    Case("silent-in-body", "stops within the image", silent(OK + b"Content-Length: 1048576\r\n\r\n" + BODY[:1000]),
         "stopped sending", settings=PATIENCE),
    Case("drip-in-body", "sends one byte in a while, never silent for long enough",
         says(OK + b"Content-Length: 1048576\r\n\r\n", b"x", times=60, pause=0.3),
         "less than min_rate", settings={**PATIENCE, "min_rate": "1M"}),
    Case("drip-fast-enough", "sends just enough for its pace, for ever",
         says(OK + b"Content-Length: 1048576\r\n\r\n", b"x", times=60, pause=0.3), "transfer_timeout",
         settings={"transfer_timeout": 1, "min_rate": 1}, seconds=6.0),
    Case("drip-in-headers", "sends one byte of its headers in a while",
         says(OK, b"x", times=60, pause=0.3), SILENT, settings=PATIENCE, seconds=6.0),
    Case("body-never-ends", "sends zeros for ever, without a length", lambda scene: never_ends, "max_virtual_size",
         settings={"max_virtual_size": "256M"}),
)  # fmt: skip

ANSWERS = (
    Case("no-http", "does not speak HTTP", says(b"220 ftp ready\r\n" * 10), NOT_HTTP),
    Case("status-line-break", "has a status text with more lines", answer("404 x\x1b[2J\x07y"), "404"),
    Case("status-long", "has a status text of 60,000 characters", answer("404 " + "x" * 60_000), "404"),
    Case("encoding-gzip-lies", "says that plain data is compressed", page(lambda: BODY, Content_Encoding="gzip"),
         HARMLESS),
    Case("encoding-gzip-hides", "has a backing file in compressed content",
         lambda scene: send(gzip.compress(backed("{canary}")(scene)),
                            Content_Encoding="gzip"), "backing file", "CVE-2015-5163"),
    Case("encoding-bomb", "unfolds in the client, unasked",
         page(lambda: gzip.compress(bytes(128 * MIB), 1), Content_Encoding="gzip"), HARMLESS),
    Case("disposition-path", "proposes a path of the host for a name",
         page(lambda: BODY, Content_Disposition='attachment; filename="../../../../etc/cron.d/x"'), HARMLESS),
    Case("cookie-bomb", "sets a hundred cookies", page(lambda: BODY, **{f"Set_Cookie{n}": "x" * 4000
         for n in range(80)}), HARMLESS),
    Case("md5-of-another", "is another file than the one that was announced", page(lambda: BODY), "checksum",
         "CVE-2024-47211, OSSA-2024-004", attributes={"MD5": hashlib.md5(b"other").hexdigest()}),
    Case("sha256-of-another", "has a right MD5 and a wrong SHA256", page(lambda: BODY), "SHA256",
         "CVE-2024-47211, OSSA-2024-004",
         attributes={"MD5": hashlib.md5(BODY).hexdigest(), "SHA256": "0" * 64}),
    Case("md5-cut", "has half a checksum, which a comparison of beginnings accepts", page(lambda: BODY),
         "not a checksum", attributes={"MD5": hashlib.md5(BODY).hexdigest()[:16]}),
    Case("md5-other-digits", "has digits that look like hexadecimal ones", page(lambda: BODY), "not a checksum",
         attributes={"MD5": "٣" * 32}),
    Case("md5-of-content", "has the checksum of what is in the compressed file", page(lambda: gzip.compress(BODY)),
         "checksum", attributes={"MD5": hashlib.md5(BODY).hexdigest()}),
    Case("app-md5-wrong", "has an app with another checksum than its file", page(lambda: BODY), "FROM_APP_MD5",
         attributes={"FROM_APP_MD5": "0" * 32}),
    Case("checksum-before-conversion", "is a damaged image whose wrong checksum must be found first",
         lambda scene: send(image("qcow2")[:-70_000]), "checksum", "CVE-2024-47211, OSSA-2024-004",
         attributes={"SHA1": "0" * 40}),
)  # fmt: skip

TRANSPORTS = (*REDIRECTS, *INSIDE, *LENGTHS, *TIMES, *ANSWERS)
