"""The demo: one marketplace download from oned's message to the stored image, without an OpenNebula at hand."""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from xml.dom import minidom

import disk
import message
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

IMAGE_ID = 42
CONSOLE = Console(width=min(Console().width, 118), highlight=False)


def main() -> int:
    """Run the demo in ONE_LOCATION; the exit status is that of the driver, or 1 when the disks differ."""
    parser = argparse.ArgumentParser(prog="install.sh --demo", description=__doc__)
    parser.add_argument("url", nargs="?", help="an image of yours (http, https); without it the demo makes one")
    parser.add_argument("--driver", default="qcow2", choices=("qcow2", "raw", "vmdk"), help="DRIVER of the datastore")
    options = parser.parse_args()
    location = Path(os.environ["ONE_LOCATION"])
    with tempfile.TemporaryDirectory(prefix="oneconvert-demo-", dir=location) as scratch:
        if options.url:
            return download(location, message.App("your-image", options.url, 0, ""), options.driver, None)
        step("A disk image for the marketplace")
        vmdk = disk.make_vmdk(Path(scratch))
        CONSOLE.print(f"{disk.DISK // disk.MIB} MiB disk: partition table, ext4, {len(disk.FILES) + 1} files; as a")
        CONSOLE.print(f"streamOptimized VMDK (what VMware exports) it has {vmdk.stat().st_size // disk.MIB} MiB")
        md5 = hashlib.md5(vmdk.read_bytes(), usedforsecurity=False).hexdigest()
        with serving(Path(scratch)) as server:
            url = f"http://127.0.0.1:{server.server_port}/{vmdk.name}"
            CONSOLE.print(f"served at [cyan]{url}[/]")
            app = message.App("webserver", url, disk.DISK // disk.MIB, md5)
            return download(location, app, options.driver, vmdk)


def download(location: Path, app: message.App, driver: str, original: Path | None) -> int:
    """What oned does when somebody presses Download on ``app``."""
    datastore = location / "var" / "datastores" / "100"
    shutil.rmtree(datastore, ignore_errors=True)
    datastore.mkdir(parents=True)
    log = location / "var" / "oneconvert.log"
    log.unlink(missing_ok=True)

    step(f"The message from oned: store app '{app.name}' in datastore 100, DRIVER={driver}")
    text = message.document(app, IMAGE_ID, datastore, driver)
    CONSOLE.print(excerpt(text))
    encoded = message.encode(text)
    CONSOLE.print(f"as oned sends it: [dim]{encoded[:76].decode()}… ({len(encoded)} bytes)[/]")

    program = location / "var" / "remotes" / "datastore" / "oneconvert_fs" / "cp"
    step("The call")
    CONSOLE.print(f"[bold]$[/] echo -n PERTX0RS… | {relative(program)} {IMAGE_ID}")
    started = time.monotonic()
    result = subprocess.run([program, str(IMAGE_ID)], input=encoded, capture_output=True, check=False)
    seconds = time.monotonic() - started
    answer, errors = result.stdout.decode().strip(), result.stderr.decode().strip()
    CONSOLE.print(f"standard output  [green]{answer or '(nothing)'}[/]", soft_wrap=True)
    CONSOLE.print(f"standard error   [yellow]{errors or '(nothing)'}[/]", soft_wrap=True)
    CONSOLE.print(f"exit status      {result.returncode}, after {seconds:.1f} s")

    step(f"The log ({relative(log)})")
    CONSOLE.print(log.read_text().strip() if log.exists() else "(none)", style="dim", markup=False, soft_wrap=True)
    left = [path.name for path in sorted(datastore.rglob("*"))]
    if result.returncode != 0:
        step("What the failure left in the datastore")
        CONSOLE.print(", ".join(left) or "nothing")
        return result.returncode
    return compare(original, Path(answer.split()[0]), left)


def compare(original: Path | None, stored: Path, left: list[str]) -> int:
    """Show the image before and after, and whether a guest could tell the difference."""
    step("Before and after")
    table = Table(box=box.SIMPLE_HEAVY)
    rows = [("in the marketplace", original), ("in the datastore", stored)]
    for heading in ("", "file", "format", "virtual size", "size on disk"):
        table.add_column(heading)
    for label, path in rows:
        if path is not None:
            info = json.loads(output("qemu-img", "info", "--output=json", str(path)))
            table.add_row(label, path.name, info["format"], mib(info["virtual-size"]), mib(info["actual-size"]))
    CONSOLE.print(table)
    CONSOLE.print(f"files in the datastore: {', '.join(left)}")
    if original is None:
        return 0
    formats = [
        json.loads(output("qemu-img", "info", "--output=json", str(each)))["format"] for each in (original, stored)
    ]
    command = ["qemu-img", "compare", "-f", formats[0], "-F", formats[1], str(original), str(stored)]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    CONSOLE.print(f"qemu-img compare: [bold green]{verdict.stdout.strip()}[/]")
    raw = original.with_name("after.raw")
    output("qemu-img", "convert", "-f", formats[1], "-O", "raw", str(stored), str(raw))
    lines = "\n".join(disk.list_files(raw))
    CONSOLE.print(Panel(lines, title="files in the stored image, read with debugfs", title_align="left"))
    return 0 if verdict.returncode == 0 else 1


def excerpt(text: str) -> Syntax:
    """The elements of the message that decide what happens."""
    root = minidom.parseString(text).documentElement
    wanted = {"PATH", "SIZE", "FROM_APP_MD5", "DS_MAD", "DRIVER", "BASE_PATH", "MARKET_MAD", "FROM_APP_NAME"}
    lines = [node.toxml() for node in root.getElementsByTagName("*") if node.tagName in wanted]
    return Syntax("\n".join(lines), "xml", background_color="default", word_wrap=True)


def serving(directory: Path) -> http.server.ThreadingHTTPServer:
    """A web server for ``directory`` on a free port of the loopback interface."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def step(title: str) -> None:
    """Begin the next part."""
    CONSOLE.print()
    CONSOLE.rule(f"[bold]{title}", align="left")


def relative(path: Path) -> str:
    """``path`` below ONE_LOCATION, as an administrator would write it."""
    return "$ONE_LOCATION/" + str(path.relative_to(os.environ["ONE_LOCATION"]))


def mib(size: int) -> str:
    """``size`` bytes in MiB."""
    return f"{size / disk.MIB:.1f} MiB"


def output(*command: str) -> str:
    """What a command prints; the demo ends when it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
