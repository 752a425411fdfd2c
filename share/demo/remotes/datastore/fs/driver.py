#!/usr/bin/env python3
"""A small stand-in for OpenNebula's 'fs' datastore driver, for the demo and the tests.

Each action is a link to this file. Like the native driver it takes the document as an argument or on standard input,
copies with the downloader.sh beside it, checks SAFE_DIRS and RESTRICTED_DIRS, and answers in one line.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# Beside the directory this was called in, as the native driver's $(dirname $0)/../downloader.sh.
DOWNLOADER = str(Path(sys.argv[0]).parent) + "/../downloader.sh"


class DriverError(Exception):
    """The sentence for the user."""


class Document:
    """The action's document."""

    def __init__(self, payload):
        self.root = ElementTree.fromstring(base64.b64decode(payload))

    def text(self, path):
        return (self.root.findtext(path) or "").strip()

    def attribute(self, name):
        return self.text("DATASTORE/TEMPLATE/" + name)


def image_format(path):
    info = subprocess.run(["qemu-img", "info", str(path)], capture_output=True, text=True, check=False).stdout
    return next((line.split(": ")[1] for line in info.splitlines() if line.startswith("file format: ")), "")


def new_path(document, object_id):
    base = Path(document.text("DATASTORE/BASE_PATH"))
    base.mkdir(parents=True, exist_ok=True)
    return base / hashlib.md5(f"{time.time()}:{object_id}".encode(), usedforsecurity=False).hexdigest()


def cp(document, object_id):
    source = document.text("IMAGE/PATH")
    if not source.startswith(("http://", "https://")):
        resolved = str(Path(source).resolve())
        safe = any(resolved.startswith(each) for each in document.attribute("SAFE_DIRS").split())
        restricted = any(resolved.startswith(each) for each in document.attribute("RESTRICTED_DIRS").split())
        if restricted and not safe:
            raise DriverError(f"Not allowed to copy image from {source}")
    target = new_path(document, object_id)
    options = ["--nodecomp"] if document.attribute("NO_DECOMPRESS").lower() == "yes" else []
    if subprocess.run([DOWNLOADER, *options, source, str(target)], stdout=subprocess.DEVNULL, check=False).returncode:
        raise DriverError(f"Error copying {source} to {target}")
    driver = document.attribute("DRIVER")
    convert = document.attribute("CONVERT").lower() != "no" and driver in ("qcow2", "raw")
    disk = document.text("IMAGE/TYPE") != "1" and document.text("DATASTORE/TYPE") != "2"
    if convert and disk and image_format(target) != driver:
        converted = target.with_suffix(".tmp")
        subprocess.run(["qemu-img", "convert", "-O", driver, str(target), str(converted)], check=True)
        converted.replace(target)
    return f"{target} {image_format(target)}"


def stat(document, _):
    path = Path(document.text("IMAGE/PATH"))
    if not path.is_file():
        raise DriverError(f"cannot access '{path}' (No such file or directory)")
    return str(-(-path.stat().st_size // 1048576))


def mkfs(document, object_id):
    path = new_path(document, object_id)
    image = document.text("IMAGE/FORMAT") or "raw"
    size = document.text("IMAGE/SIZE") + "M"
    subprocess.run(["qemu-img", "create", "-q", "-f", image, str(path), size], check=True)
    return str(path)


def clone(document, object_id):
    source, target = document.text("IMAGE/PATH"), new_path(document, object_id)
    shutil.copyfile(source, target)
    return f"{target} {image_format(target)}"


def rm(document, _):
    Path(document.text("IMAGE/SOURCE")).unlink()
    return ""


def monitor(document, _):
    usage = shutil.disk_usage(document.text("DATASTORE/BASE_PATH"))
    return "\n".join(
        f"{name}_MB={size // 1048576}"
        for name, size in (("USED", usage.used), ("TOTAL", usage.total), ("FREE", usage.free))
    )


def export(document, _):
    source = document.text("IMAGE/SOURCE")
    md5 = hashlib.md5(Path(source).read_bytes(), usedforsecurity=False).hexdigest()
    return (
        f"<IMPORT_INFO>\n<IMPORT_SOURCE><![CDATA[{source}]]></IMPORT_SOURCE>\n<MD5><![CDATA[{md5}]]></MD5>\n"
        f"<SIZE><![CDATA[{document.text('IMAGE/SIZE')}]]></SIZE>\n"
        f"<FORMAT><![CDATA[{image_format(source)}]]></FORMAT>\n<DISPOSE>NO</DISPOSE>\n</IMPORT_INFO>"
    )


def snap_delete(_document, _):
    raise DriverError("Action not supported")


snap_revert = snap_flatten = snap_delete


def main():
    arguments = sys.argv[1:]
    payload = arguments[0] if len(arguments) > 1 and arguments[0] != "-" else sys.stdin.read()
    action = globals()[Path(sys.argv[0]).name]
    try:
        answer = action(Document(payload), arguments[-1])
    except (DriverError, OSError, subprocess.CalledProcessError) as error:
        print(f"ERROR: {action.__name__}: {error}", file=sys.stderr)
        print(error, file=sys.stderr)
        sys.exit(1)
    if answer:
        print(answer)


main()
