"""The document from oned: shells, options, paths and XML in the fields that users write, and documents that are none.

Whatever a user can write into an image or a datastore comes here as text. No shell may run it, no file outside of the
safe directories be read by it, and no parser be brought down with it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from dataclasses import replace

from lxml import etree

from hostile.case import EITHER, HARMLESS, Case, Scene
from rig.front_end import messages
from rig.images import SIZE_MB
from rig.messages import App, Datastore

SHELLS = ("'; touch {spoils}; '", '"; touch {spoils}; "', "$(touch {spoils})", "`touch {spoils}`", "| touch {spoils}")
NOT_ALLOWED = "not allowed"
NOT_XML = "not well-formed"
NO_CHECKSUM = "is not a checksum"
NO_FILE = "neither a regular file"


def plain(scene: Scene, path: str = "", store: Datastore | None = None, **attributes: object) -> str:
    """A document that would import an image."""
    place = path or scene.web.url("qcow2")
    return messages().cp(42, place, SIZE_MB, store or scene.store, attributes=attributes)


def filled(text: str, scene: Scene) -> str:
    return scene.filled(text)


def path(text: str) -> Callable[[Scene], str]:
    """A document with this PATH."""
    return lambda scene: plain(scene, filled(text, scene))


def attribute(name: str, text: str) -> Callable[[Scene], str]:
    return lambda scene: plain(scene, **{name: filled(text, scene)})


def of_type(kind: int, place: str, **attributes: object) -> Callable[[Scene], str]:
    """A document for an image of another type."""
    return lambda scene: plain(scene, place, **attributes).replace("<TYPE>0</TYPE>", f"<TYPE>{kind}</TYPE>", 1)


def of_datastore(text: str = "", **fields: str) -> Callable[[Scene], str]:
    """A document whose datastore has other attributes, or other fields of rig.messages.Datastore."""

    def build(scene: Scene) -> str:
        values = {name: filled(value, scene) for name, value in fields.items()}
        known = {name: values.pop(name) for name in tuple(values) if name in Datastore.__dataclass_fields__}
        return plain(scene, filled(text, scene), replace(scene.store, **known, attributes=values))

    return build


def swapped(old: str, new: str) -> Callable[[Scene], str]:
    """A document with one piece of its text replaced."""

    def build(scene: Scene) -> str:
        document = plain(scene)
        assert old in document
        return document.replace(old, filled(new, scene), 1)

    return build


def linked(scene: Scene) -> str:
    """A link in a safe directory that leads to the canary."""
    (scene.directory / "image").symlink_to(scene.canary)
    store = replace(scene.store, safe_dirs=str(scene.directory))
    return plain(scene, f"{scene.directory}/image", store)


def fifo(scene: Scene) -> str:
    os.mkfifo(scene.directory / "image")
    return plain(scene, f"{scene.directory}/image", replace(scene.store, safe_dirs=str(scene.directory)))


def encoded(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


def laughs(scene: Scene) -> str:
    lines = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    head = f'<!DOCTYPE DS_DRIVER_ACTION_DATA [<!ENTITY e0 "ha">{lines}]>'
    return head + plain(scene).replace("image_42", "&e9;")


def external_entity(scene: Scene) -> str:
    head = f'<!DOCTYPE DS_DRIVER_ACTION_DATA [<!ENTITY x SYSTEM "file://{scene.canary}">]>'
    return head + plain(scene).replace("<NAME>image_42", "<NAME>&x;")


def of_app(**fields: str) -> Callable[[Scene], str]:
    def build(scene: Scene) -> str:
        app = App(7, filled(fields.get("name", "app"), scene), filled(fields.get("md5", ""), scene),
                  filled(fields.get("url", "http://127.0.0.1/"), scene))  # fmt: skip
        return messages().cp(42, scene.web.url("qcow2"), SIZE_MB, scene.store, app)

    return build


POISON = "-oProxyCommand=touch {spoils}\n'\"`touch {spoils}`$(touch {spoils});touch {spoils}|touch {spoils}&%s{"
# What oneconvert reads of a document, each alone, and how it is refused. All else that oned sends is in one case.
READ = {
    "IMAGE/ID": "not a number",
    "IMAGE/TYPE": "not a number",
    "IMAGE/PATH": "neither a URL nor an absolute path",
    "IMAGE/SIZE": "not a number",
    "IMAGE/TEMPLATE/URL_ARGS": EITHER,
    "IMAGE/TEMPLATE/ONECONVERT_DISK": HARMLESS,
    "IMAGE/TEMPLATE/SHA512": NO_CHECKSUM,
    "IMAGE/GID": "not a number",
    "DATASTORE/ID": "not a number",
    "DATASTORE/TYPE": "not a number",
    "DATASTORE/BASE_PATH": EITHER,
    "DATASTORE/TEMPLATE/DRIVER": "cannot be written",
    "DATASTORE/TEMPLATE/NFS_AUTO_ENABLE": HARMLESS,
    "DATASTORE/TEMPLATE/LIMIT_TRANSFER_BW": "not a rate",
    "MARKETPLACE/MARKET_MAD": EITHER,
    **{f"MARKETPLACE/TEMPLATE/{key}": EITHER for key in (
        "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "ENDPOINT", "FORCE_PATH_STYLE", "SIGNATURE_VERSION")},
}  # fmt: skip


def poisoned(field: str = "") -> Callable[[Scene], str]:
    """A document with a text in ``field`` that no shell, no program and no parser of options may see; without one, in
    all that oneconvert does not read."""

    def build(scene: Scene) -> str:
        keys = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "REGION": "there", "AWS": "no"}
        keys |= {"ENDPOINT": scene.web.url(""), "FORCE_PATH_STYLE": "yes", "SIGNATURE_VERSION": "v4"}
        app = App(7, "app", "", scene.web.url(""), "s3", keys)
        path = "s3://bucket/key" if field.startswith("MARKETPLACE") else scene.web.url("qcow2")
        document = etree.fromstring(messages().cp(42, path, SIZE_MB, scene.store, app))
        paths = [field] if field else [each for each in leaves(document) if each not in (*READ, *PASSED_ON)]
        for each in paths:
            parent, _, name = each.rpartition("/")
            element = document.find(each)
            if element is None:
                element = etree.SubElement(document.find(parent), name)
            element.text = scene.filled(POISON)
        return etree.tostring(document).decode()

    return build


# Who may read what, which other cases have; and with AWS anything but "no", Amazon is asked, which no test does.
PASSED_ON = (
    "MARKETPLACE/TEMPLATE/AWS",
    "DATASTORE/TEMPLATE/SAFE_DIRS",
    "DATASTORE/TEMPLATE/RESTRICTED_DIRS",
    "IMAGE/TEMPLATE/FROM_APP_MD5",
)


def leaves(document: etree._Element) -> list[str]:
    tree = etree.ElementTree(document)
    return [tree.getelementpath(each) for each in document.iter() if not len(each)]


POISONED = (
    *(Case(f"field-{field.lower().replace('/', '-').replace('_', '-')}", f"has options, quotes and commands in {field}",
           poisoned(field), words, "CWE-78, CWE-88",
           differs="where it is used, and where it is not" if words == EITHER else "")
      for field, words in READ.items()),
    Case("fields-that-nobody-reads", "has options, quotes and commands in all other fields", poisoned(), HARMLESS,
         "CWE-78, CWE-88"),
)  # fmt: skip

INJECTION = (
    *(Case(f"path-shell-{number}", f"has odd characters in PATH, in the way number {number}",
           path("/var/tmp/image" + text), "cannot read /var/tmp/image", "CWE-78")
      for number, text in enumerate(SHELLS, 1)),
    *(Case(f"url-shell-{number}", f"has a shell run the query of a URL, in the way number {number}",
           lambda scene, text=text: plain(scene, f"{scene.web.url('qcow2')}?{filled(text, scene)}"), HARMLESS, "CWE-78")
      for number, text in enumerate(SHELLS[1:3], 1)),
    *(Case(f"image-{name.lower().replace('_', '-')}-shell", f"has a shell run the attribute {name} of the image",
           lambda scene, name=name: plain(scene, **{name: filled(" ".join(SHELLS), scene)}), words, "CWE-78")
      for name, words in (("MD5", NO_CHECKSUM), ("SHA1", NO_CHECKSUM), ("SHA256", NO_CHECKSUM),
                          ("FROM_APP_MD5", NO_CHECKSUM), ("FS", HARMLESS),
                          ("DRIVER", HARMLESS), ("DEV_PREFIX", HARMLESS), ("FROM_APP", HARMLESS),
                          ("DESCRIPTION", HARMLESS))),
    *(Case(f"datastore-{name.lower().replace('_', '-')}-shell", f"has a shell run the attribute {name} of a datastore",
           lambda scene, name=name: of_datastore(**{name: " ".join(SHELLS)})(scene), words, "CWE-78")
      for name, words in (("CONVERT", HARMLESS), ("NO_DECOMPRESS", HARMLESS), ("SAFE_DIRS", HARMLESS),
                          ("RESTRICTED_DIRS", HARMLESS), ("DISK_TYPE", HARMLESS), ("TM_MAD", HARMLESS))),
    *(Case(f"cdrom-path-{number}", f"has odd characters in the PATH of a CD-ROM, in the way number {number}",
           lambda scene, text=text: of_type(1, "/var/tmp/image" + filled(text, scene))(scene), "rename the file",
           "CWE-78") for number, text in enumerate(SHELLS, 1)),
    Case("cdrom-url-args-shell", "has a shell run what is appended to the URL of a CD-ROM",
         lambda scene: of_type(1, scene.web.url("qcow2"), URL_ARGS=filled("a'; touch {spoils};'", scene))(scene),
         "URL_ARGS"),
    Case("disk-option", "has an option for the wanted disk", attribute("ONECONVERT_DISK", "-o"), HARMLESS),
    Case("disk-path", "has a file of the host for the wanted disk", attribute("ONECONVERT_DISK", "{canary}"), HARMLESS),
    Case("name-shell", "has a shell run the name of the image", swapped("image_42", "$(touch {spoils})"), HARMLESS),
    Case("url-args-shell", "has a shell run what is appended to the URL", attribute("URL_ARGS", "a'; touch {spoils};'"),
         "404 Not Found"),
    Case("disk-shell", "has a shell run the name of the wanted disk",
         attribute("ONECONVERT_DISK", "'; touch {spoils}; '"), HARMLESS),
    Case("format-option", "has qemu-img take another format for an option", attribute("FORMAT", "raw -o x"), HARMLESS),
    Case("driver-shell", "has the DRIVER of the datastore run by a shell", of_datastore(driver="$(touch {spoils})"),
         "cannot be written"),
    Case("bandwidth-shell", "has a shell run a limit", of_datastore(LIMIT_TRANSFER_BW="1; touch {spoils}"),
         "not a rate"),
    Case("bandwidth-huge", "has a limit of thousands of digits", of_datastore(LIMIT_TRANSFER_BW="9" * 5000),
         "not a rate", "CVE-2020-10735"),
    Case("base-path-blank", "has an answer of two words for one path", of_datastore(base_path="/var/tmp/a b"), "blank"),
    Case("app-name-newline", "writes lines of its own into the log", of_app(name="x\nERROR: CANARY\n-"), HARMLESS),
    Case("id-path", "has a path for a number, for those who make files after it",
         swapped("<ID>42</ID>", "<ID>../../42</ID>"), "not a number"),
    Case("id-unicode", "has digits of another script", swapped("<ID>42</ID>", "<ID>٤٢</ID>"), "not a number"),
    Case("id-huge", "has a number of thousands of digits, which takes ages to read",
         swapped("<ID>42</ID>", f"<ID>{'9' * 5000}</ID>"), "not a number", "CVE-2020-10735"),
    Case("size-negative", "has a size below nothing", swapped(f"<SIZE>{SIZE_MB}<", "<SIZE>-1<"), "not a number"),
)  # fmt: skip

PLACES = (
    Case("path-canary", "names a file of the host that is no image", path("{canary}"), NOT_ALLOWED, "OSSA-2025-001"),
    Case("path-climbing", "climbs out of a safe directory", of_datastore("/var/tmp/../../{canary}"), NOT_ALLOWED),
    Case("path-link", "is a link in a safe directory", linked, NOT_ALLOWED),
    Case("path-prefix", "begins like a safe directory and is another one",
         of_datastore("{canary}", safe_dirs="/var/tmp {directory}"), NOT_ALLOWED),
    Case("path-proc", "names the canary by way of the root of a process", path("/proc/self/root{canary}"),
         NOT_ALLOWED),
    Case("path-environment", "reads the environment of the driver", path("/proc/self/environ"), NOT_ALLOWED),
    Case("path-zero", "never ends", of_datastore("/dev/zero", safe_dirs="/dev"), "neither a regular file"),
    Case("path-fifo", "waits for somebody to write", fifo, "neither a regular file"),
    Case("path-directory", "is a directory", of_datastore("{directory}", safe_dirs="{directory}"),
         "neither a regular file"),
    Case("path-empty", "names nothing", lambda scene: re.sub("<PATH>.*?</PATH>", "<PATH/>", plain(scene)),
         "has no PATH"),
    Case("path-fd", "reads a descriptor that the driver happens to hold", path("/proc/self/fd/0"), NO_FILE),
    Case("path-dev-fd", "reads a descriptor by its device", path("/dev/stdin"), NO_FILE),
    Case("path-nul", "ends its path early with a NUL", lambda scene: encoded(
        plain(scene).replace("<PATH><![CDATA[", "<PATH><![CDATA[/var/tmp/x\0")), NOT_XML),
    Case("path-control", "has an escape sequence in its path", path("/var/tmp/\t\u202e\u2028image"),
         "cannot read /var/tmp/"),
    Case("path-long", "has a path of 100,000 characters", path("/var/tmp/" + "x/" * 50_000), "IMAGE/PATH"),
    Case("path-option", "is an option to programs", path("--output=/tmp/x"), "neither a URL nor an absolute path"),
    Case("path-relative", "is relative to who knows what", path("etc/canary"), "neither a URL nor an absolute path"),
    Case("url-file", "fetches a file of the host by URL", path("file://{canary}"), "file://", "OSSA-2025-001"),
    Case("url-gopher", "speaks to any server in its own words", path("gopher://127.0.0.1:6379/_FLUSHALL"),
         "gopher://"),
    Case("url-json", "is a protocol of qemu", path('json:{"driver":"file","filename":"{canary}"}'),
         "neither a URL nor an absolute path"),
    Case("url-line-break", "sends headers of its own to the server",
         lambda scene: plain(scene, scene.web.url("qcow2") + " HTTP/1.1\r\nX-Evil: 1\r\n\r\n"), "404 Not Found",
         "CVE-2019-9740"),
    Case("url-brackets", "has a host that parsers disagree about", path("http://[::1%25lo]@127.0.0.1]/x"),
         "URL is not valid"),
    Case("url-ssh-option", "has a host that ssh takes for an option, which runs a command",
         path("ssh://-oProxyCommand=touch%20{spoils}/x"), "ssh:// location", "CVE-2017-1000117"),
    Case("url-ssh-option-plain", "has a host with a command in it",
         path("ssh://-oProxyCommand=touch${IFS}{spoils}:/x"), "ssh:// location", "CVE-2017-12426"),
    Case("url-s3-without-keys", "uses the keys of the host to read somebody's bucket", path("s3://bucket/key"),
         "ACCESS_KEY_ID", settings={"connect_timeout": 2}),
)  # fmt: skip

DOCUMENTS = (
    Case("base64-garbage", "is no base64", lambda scene: b"\xff\xfe\x00 garbage" * 100, "not base64"),
    Case("base64-other-alphabet", "is base64 of another alphabet",
         lambda scene: encoded(b"\xfb\xff\xfe" * 30).replace(b"+", b"-").replace(b"/", b"_"), "not base64"),
    Case("base64-cut", "ends within a group", lambda scene: encoded(plain(scene))[:-3], "not base64"),
    Case("base64-nul", "has NULs between its letters",
         lambda scene: encoded(plain(scene)).replace(b"A", b"A\0"), "not base64"),
    Case("xml-nothing", "is nothing", lambda scene: b"", "sent no document"),
    Case("xml-nul", "has a NUL in a field", swapped("image_42", "image\0_42"), NOT_XML),
    Case("xml-cdata-end", "ends the protection of a field by itself",
         attribute("NOTE", "]]></NOTE></TEMPLATE><PATH>/etc/passwd</PATH>"), NOT_XML),
    Case("xml-other-root", "is another document", lambda scene: "<IMAGE><ID>42</ID></IMAGE>", "not a DS_DRIVER"),
    Case("xml-doctype", "brings a document type", lambda scene: "<!DOCTYPE a>" + plain(scene), "DOCTYPE"),
    Case("xml-external-entity", "reads a file of the host into the name of the image", external_entity, "DOCTYPE",
         "OSSA-2013-004"),
    Case("xml-external-subset", "fetches its document type from a server", lambda scene:
         f'<!DOCTYPE a SYSTEM "{scene.web.url("evil.dtd")}">' + plain(scene), "DOCTYPE", "OSSA-2013-004"),
    Case("xml-billion-laughs", "unfolds to gigabytes of laughter", laughs, "the document from oned", "CVE-2003-1564"),
    Case("xml-depth", "nests a hundred thousand elements in the template", swapped(
        "<TEMPLATE>", "<TEMPLATE>" + "<a>" * 100_000 + "</a>" * 100_000), NOT_XML),
    Case("xml-attributes", "has an element of ten thousand attributes", swapped(
        "<SNAPSHOTS>", "<X " + " ".join(f'a{n}="1"' for n in range(10_000)) + "/><SNAPSHOTS>"), HARMLESS),
    Case("xml-include", "includes a file of the host", swapped(
        "image_42", '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file://{canary}" parse="text"/>'),
        HARMLESS),
    Case("xml-stylesheet", "has a processing instruction", lambda scene:
         f'<?xml-stylesheet href="file://{scene.canary}"?>' + plain(scene), HARMLESS),
    Case("xml-path-twice", "has two paths, for readers that take the first or the last",
         swapped("<PATH>", "<PATH><![CDATA[{canary}]]></PATH><PATH>"), NOT_ALLOWED),
    Case("xml-utf-16", "is in an encoding that base64 readers do not expect",
         lambda scene: encoded(plain(scene).encode("utf-16")), HARMLESS),
    Case("xml-encoding-unknown", "claims an encoding that does not exist",
         lambda scene: '<?xml version="1.0" encoding="utf-7"?>' + plain(scene), EITHER,
         differs="libxml2 knows UTF-7 where it was built with iconv"),
    Case("xml-surrogates", "has half a character", lambda scene: encoded(
         plain(scene).encode().replace(b"image_42", b"\xed\xa0\x80")), NOT_XML),
    Case("base64-line-breaks", "is base64 of one letter a line", lambda scene: b"\n".join(
        encoded(plain(scene))[n : n + 1] for n in range(len(encoded(plain(scene))))), HARMLESS),
    Case("xml-bytes-behind", "goes on behind its end", lambda scene: plain(scene) + "<IMAGE/>", NOT_XML),
    Case("xml-namespace", "hides its elements in a namespace", swapped(
        "<DS_DRIVER_ACTION_DATA>", '<DS_DRIVER_ACTION_DATA xmlns="http://example.org/">'), "DS_DRIVER_ACTION_DATA"),
    Case("xml-one-mib", "is 1 MiB of description, more than fits on a command line",
         attribute("DESCRIPTION", "a long story " * 80_000), HARMLESS),
    Case("xml-text-of-twelve-mib", "has one field of 12 MiB", attribute("DESCRIPTION", "x" * (12 << 20)), NOT_XML),
    Case("xml-many-images", "has a hundred thousand images in its datastore", lambda scene: plain(
        scene, "", replace(scene.store, images=tuple(range(100_000)))), HARMLESS),
)  # fmt: skip

MESSAGES = (*POISONED, *INJECTION, *PLACES, *DOCUMENTS)
