"""Images behind ssh://, from a real sshd on loopback, and the streaming of programs that this stands on.

ssh takes its configuration from the home in passwd, which is not the tests' to write to. So an ``ssh`` in front of the
real one names another, as OpenNebula's own ``/usr/lib/one/sh/override/ssh`` in oned's PATH adds an option.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from oneconvert.errors import CommandError, NotAllowedError
from oneconvert.jobs.process import UNLIMITED, stream
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.options import NetworkOptions
from oneconvert.transfer.ssh import open_remote_file
from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.messages import Datastore
from rig.web import wait_until

SSHD = shutil.which("sshd", path=f"/usr/sbin:{os.environ.get('PATH', '')}")
PYTHON = (sys.executable, "-I", "-c")
Process = subprocess.Popen[bytes]
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs sshd (openssh-server)")

# One port for each way that a host can be.
SERVER = """
{listen}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Match LocalPort {without_stat}
    SetEnv PATH={home}/bin
Match LocalPort {talkative}
    ForceCommand echo Welcome; sh -c "$SSH_ORIGINAL_COMMAND"
"""
# What OpenNebula installs for oneadmin has masters, too.
CLIENT = """
Host refused
    Port 1
Host stranger
    UserKnownHostsFile /dev/null
Host changed
    UserKnownHostsFile {home}/known_changed
Host keyless
    IdentityFile {home}/other_key
Host without-stat
    Port {without_stat}
Host talkative
    Port {talkative}
Host relay
    Port {relay}
Host unknown.invalid
    HostName unknown.invalid
Host * !unknown.invalid
    HostName 127.0.0.1
Host *
    Port {plain}
    User {user}
    HostKeyAlias the-host
    IdentitiesOnly yes
    UserKnownHostsFile {home}/known
    GlobalKnownHostsFile /dev/null
    ControlMaster auto
    ControlPath {home}/master
    ControlPersist 60
Host * !keyless
    IdentityFile {home}/user_key
"""


@dataclass
class Relay:
    """Between ssh and sshd: passes ``limit`` bytes of the answer on, then falls silent or cuts the connection."""

    port: int = 0
    limit: int = 0
    cuts: bool = True
    released: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket, target: int) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", target))
            threading.Thread(target=self._pass, args=(client, server, 1 << 60), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self.limit), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        try:
            while limit > 0 and (data := source.recv(min(limit, 65536))):
                target.sendall(data)
                limit -= len(data)
            if limit == 0 and not self.cuts:
                self.released.wait(60)
        except OSError:
            pass
        for each in (source, target):
            shut_down(each)


def shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Host:
    """The host: ``files`` are what it has, ``path`` is the PATH in which ssh finds it."""

    home: Path
    files: Path
    path: str
    port: int
    relay: Relay

    @property
    def config(self) -> str:
        return str(self.home / "config")

    def clients(self) -> list[str]:
        """The command lines of all programs that have our configuration."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if self.config in line or str(self.home / "master") in line:
                found.append(line)
        return found


def free_ports(number: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def keygen(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@contextmanager
def serve_ssh(home: Path, files: Path) -> Iterator[Host]:
    plain, without_stat, talkative = free_ports(3)
    relay, listener = Relay(), socket.create_server(("127.0.0.1", 0))
    relay.port = listener.getsockname()[1]
    threading.Thread(target=relay.serve, args=(listener, plain), daemon=True).start()
    host_key = keygen(home / "host_key")
    keygen(home / "user_key")
    (home / "known").write_text(f"the-host {host_key}")
    (home / "known_changed").write_text(f"the-host {keygen(home / 'other_key')}")
    (home / "bin").mkdir()
    for program in ("sh", "cat"):
        (home / "bin" / program).symlink_to(str(shutil.which(program)))
    names = {"home": home, "plain": plain, "without_stat": without_stat, "talkative": talkative}
    listen = "\n".join(f"Port {port}" for port in (plain, without_stat, talkative))
    (home / "sshd_config").write_text(SERVER.format(listen=listen, **names))
    user = pwd.getpwuid(os.getuid()).pw_name
    (home / "config").write_text(CLIENT.format(relay=relay.port, user=user, **names))
    override = home / "override"
    override.mkdir()
    (override / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {home}/config "$@"\n')
    (override / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (home / "sshd.log").open("wb")
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", home / "sshd_config"], stderr=log)
    try:
        for port in (plain, without_stat, talkative):
            assert wait_until(lambda port=port: answers(port)), (home / "sshd.log").read_text()  # type: ignore[misc]
        yield Host(home, files, f"{override}:{os.environ['PATH']}", plain, relay)
    finally:
        relay.released.set()
        shut_down(listener)
        listener.close()
        server.terminate()
        server.wait()
        log.close()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


OPTIONS = NetworkOptions(1, 1, 0, None, 0, AddressRules(private=True))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    home, files = tmp_path_factory.mktemp("ssh"), tmp_path_factory.mktemp("remote")
    with serve_ssh(home, files) as running:
        yield running


def download(front_end: FrontEnd, host: Host, location: str, store: Datastore, **attributes: object) -> Answer:
    document = messages().cp(42, location, SIZE_MB, store, attributes=attributes)
    return front_end.call("cp", document, PATH=host.path)


def assert_refused(front_end: FrontEnd, host: Host, answer: Answer, store: Datastore, *words: str) -> None:
    assert (answer.status, answer.stdout) == (1, ""), answer
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    for word in words:
        assert word in answer.stderr
    assert "Traceback" not in answer.stderr
    assert front_end.left_in(store) == []
    assert host.clients() == []


@needs_sshd
@pytest.mark.parametrize("image", ["vmdk-stream", "qcow2.gz"])
def test_a_file_of_another_host_is_imported(front_end: FrontEnd, host: Host, images: Images, image: str) -> None:
    store = front_end.datastore("qcow2")
    answer = download(front_end, host, f"ssh://remote:{images.file(image)}", store)
    assert answer.status == 0, answer.stderr
    assert same_disk(answer.source, "qcow2", images.file("raw"), "raw")
    assert f"{images.file(image).stat().st_size} bytes" in front_end.log.read_text(), "the length is known beforehand"
    assert host.clients() == [], "no master stays either"


@needs_sshd
@pytest.mark.parametrize(
    "name",
    [
        "it's $(touch canary) `touch canary` ; touch canary",
        'two  blanks, a "quoted" back\\slash & more > canary',
        "*:-ünï çødé 日本",
    ],
)
def test_a_name_means_nothing_to_the_shell_of_the_host(
    front_end: FrontEnd, host: Host, images: Images, name: str
) -> None:
    path = host.files / name
    shutil.copyfile(images.file("vmdk-stream"), path)
    before = set(host.files.iterdir())
    answer = download(front_end, host, f"ssh://remote:{path}", front_end.datastore())
    assert answer.status == 0, answer.stderr
    assert set(host.files.iterdir()) == before
    assert not (Path.home() / "canary").exists()


@needs_sshd
def test_user_and_port_may_be_named(front_end: FrontEnd, host: Host, images: Images) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    location = f"ssh://{user}@127.0.0.1:{host.port}:{images.file('vmdk-stream')}"
    answer = download(front_end, host, location, front_end.datastore())
    assert answer.status == 0, answer.stderr


@needs_sshd
def test_a_host_without_stat_sends_without_a_length(front_end: FrontEnd, host: Host, images: Images) -> None:
    answer = download(front_end, host, f"ssh://without-stat:{images.file('vmdk-stream')}", front_end.datastore())
    assert answer.status == 0, answer.stderr
    assert "without-stat" in front_end.log.read_text()


@needs_sshd
def test_a_checksum_is_verified(front_end: FrontEnd, host: Host, images: Images) -> None:
    store = front_end.datastore()
    answer = download(front_end, host, f"ssh://remote:{images.file('vmdk-stream')}", store, MD5="0" * 32)
    assert_refused(front_end, host, answer, store, "does not have the checksum")


@needs_sshd
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("ssh://remote:/no/such/file", "there is no such file on the host"),
        ("ssh://remote:-rf", "there is no such file on the host"),
        ("ssh://remote:22/var/tmp/image", "on the host; a port is written as in ssh://host:port:/path"),
        ("ssh://remote:/etc", "it is a directory"),
        ("ssh://keyless:/etc/hostname", "does not accept the SSH key"),
        ("ssh://stranger:/etc/hostname", "key is not known"),
        ("ssh://changed:/etc/hostname", "another key than known_hosts says"),
        ("ssh://refused:/etc/hostname", "refuses the connection"),
        ("ssh://unknown.invalid:/etc/hostname", "no host of that name"),
        ("ssh://talkative:/etc/hostname", "login scripts"),
    ],
)
def test_what_cannot_be_read(front_end: FrontEnd, host: Host, location: str, words: str) -> None:
    store = front_end.datastore()
    assert_refused(front_end, host, download(front_end, host, location, store), store, f"{location}: ", words)


@needs_sshd
def test_a_connection_that_breaks_is_no_image(front_end: FrontEnd, host: Host, images: Images) -> None:
    store = front_end.datastore()
    host.relay.limit, host.relay.cuts = 2 * MIB, True
    answer = download(front_end, host, f"ssh://relay:{images.file('raw')}", store)
    assert_refused(front_end, host, answer, store, "the download is incomplete", f"of {SIZE_MB * MIB} bytes")


@needs_sshd
def test_a_connection_that_breaks_at_once(front_end: FrontEnd, host: Host, images: Images) -> None:
    store = front_end.datastore()
    host.relay.limit, host.relay.cuts = 1000, True
    answer = download(front_end, host, f"ssh://relay:{images.file('raw')}", store)
    assert_refused(front_end, host, answer, store, "cannot be read: ssh: ")


@needs_sshd
def test_a_host_that_falls_silent_is_given_up(front_end: FrontEnd, host: Host, images: Images) -> None:
    store = front_end.datastore()
    host.relay.limit, host.relay.cuts = 2 * MIB, False
    with front_end.settings(idle_timeout=1):
        answer = download(front_end, host, f"ssh://relay:{images.file('raw')}", store)
    assert_refused(front_end, host, answer, store, "stopped sending after")
    assert answer.seconds < 10


@contextmanager
def stalled_download(front_end: FrontEnd, host: Host, images: Images, store: Datastore) -> Iterator[Process]:
    """An import of which some has arrived, and no more comes."""
    host.relay.limit, host.relay.cuts = MIB, False
    document = messages().cp(42, f"ssh://relay:{images.file('raw')}", SIZE_MB, store)
    process, stdin = front_end.start("cp", document, PATH=host.path)
    try:
        process.stdin.write(stdin)  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
        spool = Path(store.base_path)
        assert wait_until(lambda: any(path.stat().st_size for path in spool.rglob("source")))
        assert host.clients() != []
        yield process
    finally:
        process.kill()
        process.wait()


@needs_sshd
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_download_leaves_no_ssh(
    front_end: FrontEnd, host: Host, images: Images, number: int
) -> None:
    store = front_end.datastore()
    with stalled_download(front_end, host, images, store) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
        assert host.clients() == []
        assert front_end.left_in(store) == []


@needs_sshd
def test_after_a_sigkill_no_ssh_stays(front_end: FrontEnd, host: Host, images: Images) -> None:
    with stalled_download(front_end, host, images, front_end.datastore()) as process:
        process.kill()
        assert wait_until(lambda: host.clients() == [])


@needs_sshd
def test_a_bandwidth_limit_is_kept(front_end: FrontEnd, host: Host, images: Images) -> None:
    store = front_end.datastore("raw", attributes={"LIMIT_TRANSFER_BW": "16M"})
    answer = download(front_end, host, f"ssh://remote:{images.file('raw')}", store)
    assert answer.status == 0, answer.stderr
    assert answer.seconds > SIZE_MB / 16


@pytest.mark.parametrize(
    "location",
    [
        "ssh://host/path",
        "ssh://host",
        "ssh://host:",
        "ssh://:/path",
        "ssh://-oProxyCommand=id:/path",
        "ssh://-l@host:/path",
        "ssh://@host:/path",
        "ssh://a b:/path",
        "ssh://$(id):/path",
        "ssh://host;id:/path",
        "ssh://host:/path\nHost x",
        "ssh://host:/pa\x7fth",
        "ssh://hôst:/path",
        "ssh://[host]:/path",
        "ssh://bob:Geheimnis@host/path",
    ],
)
def test_what_is_no_location_is_refused(location: str) -> None:
    with pytest.raises(NotAllowedError) as caught, open_remote_file(location, OPTIONS):
        pass
    assert "Geheimnis" not in str(caught.value)


def test_a_program_is_read_while_it_runs() -> None:
    code = "import sys, time; print('one', flush=True); print('err', file=sys.stderr); time.sleep(30)"
    started = time.monotonic()
    with stream([*PYTHON, code], UNLIMITED) as output:
        assert output.read(10) == b"one\n"
        assert output.completed is None
    assert time.monotonic() - started < 10


def test_the_end_of_a_program_is_told() -> None:
    with stream([*PYTHON, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], UNLIMITED) as output:
        assert output.read(10) == b"out\n"
        assert output.read(10) == b""
        assert output.read(10) == b"", "and again"
    assert output.completed is not None
    assert (output.completed.status, output.completed.stderr) == (3, b"err\n")


def test_a_program_that_complains_a_lot_does_not_wait_for_us() -> None:
    code = "import sys\nfor n in range(200000): print('complaint', n, file=sys.stderr)\nprint('out')"
    with stream([*PYTHON, code], UNLIMITED) as output:
        assert output.read(20) == b"out\n"
        assert output.read(10) == b""
    assert output.completed is not None
    assert len(output.completed.stderr) <= 64 * 1024
    assert output.completed.stderr.endswith(b"complaint 199999\n")


def test_a_program_that_says_nothing_is_given_up() -> None:
    with pytest.raises(TimeoutError), stream([*PYTHON, "import time; time.sleep(30)"], UNLIMITED) as output:
        output.read(0.3)
    with pytest.raises(TimeoutError), stream(["sh", "-c", "exec >&-; sleep 30"], UNLIMITED) as output:
        output.read(0.5)


def test_what_stays_in_the_background_is_not_waited_for() -> None:
    started = time.monotonic()
    with stream(["sh", "-c", "sleep 5 >&- & echo done"], UNLIMITED) as output:
        assert output.read(10) == b"done\n"
        assert output.read(10) == b""
    assert time.monotonic() - started < 4


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(CommandError, match="cannot run no-such-program"), stream(["no-such-program"], UNLIMITED):
        pass
