"""install.sh, as an administrator runs it, on a small self-contained OpenNebula."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rig.front_end import FrontEnd, copy_installation

REPOSITORY = Path(__file__).parents[2]
ROOT = os.geteuid() == 0
NOBODY = 65534
NATIVE = """#!/bin/sh
echo "native ${0##*/} $*"
"""
ACTIONS = ("cp", "rm", "mkfs", "stat", "clone", "monitor", "snap_delete", "snap_revert", "snap_flatten", "export")
ONED_CONF = """DATASTORE_MAD = [
    EXECUTABLE = "one_datastore",
    ARGUMENTS  = "-t 15 -d dummy,fs,ceph -s shared,ssh"
]
DS_MAD_CONF = [
    NAME = "fs", REQUIRED_ATTRS = "", PERSISTENT_ONLY = "NO", MARKETPLACE_ACTIONS = "export"
]
"""


class Installer:
    """A checkout of this repository that a test may change, and an OpenNebula below ``location``."""

    def __init__(self, checkout: Path, location: Path) -> None:
        self.checkout = checkout
        self.location = location
        self.remotes = location / "var" / "remotes"
        self.datastore = self.remotes / "datastore"
        self.lib = location / "lib" / "oneconvert"
        self.config = self.remotes / "etc" / "oneconvert" / "oneconvert.conf"

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "ONE_LOCATION": str(self.location), **extra}

    def run(self, *options: str, user: int | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "install.sh", *options],
            env=self.environment(extra),
            user=user,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def succeed(self, *options: str, **extra: str) -> str:
        answer = self.run(*options, user=None, **extra)
        assert answer.returncode == 0, answer.stderr + answer.stdout
        assert answer.stderr == ""
        return answer.stdout

    def interrupt_while_building(self, number: signal.Signals, **extra: str) -> int:
        """Start it, send the signal while it makes a venv, and return the exit status; fails if it makes none."""
        with subprocess.Popen(
            [self.checkout / "install.sh"], env=self.environment(extra), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert any("building" in line for line in process.stdout)
            process.send_signal(number)
        return process.returncode

    def venv(self) -> str:
        return str((self.lib / "venv").readlink())

    def venvs(self) -> set[str]:
        return {path.name for path in self.lib.glob("venv-*")}

    def wrappers(self) -> dict[str, set[str]]:
        return {path.name: {action.name for action in path.iterdir()} for path in self.datastore.glob("oneconvert*")}

    def state(self, times: bool = True) -> dict[str, tuple[object, ...]]:
        return snapshot(self.location, times)


def snapshot(top: Path, times: bool) -> dict[str, tuple[object, ...]]:
    """Everything below ``top``: mode, owner, content and, with ``times``, time of change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        time = status.st_mtime_ns if times else 0
        found[str(path.relative_to(top))] = (status.st_mode, status.st_uid, content, time)
    return found


def make_native(directory: Path, actions: tuple[str, ...] = ACTIONS) -> None:
    directory.mkdir(parents=True)
    for action in actions:
        (directory / action).write_text(NATIVE)
        (directory / action).chmod(0o755)


def make_front_end(location: Path) -> None:
    datastore = location / "var" / "remotes" / "datastore"
    make_native(datastore / "fs")
    make_native(datastore / "ceph")
    make_native(datastore / "dummy", (*ACTIONS, "restore"))
    make_native(datastore / "common", ("stat",))
    # Helpers: one without the x bit, as OpenNebula ships it, and one with.
    (datastore / "ceph" / "ceph_utils.sh").write_text("# helper\n")
    make_native(datastore / "ceph" / "vendor", ("rbd",))
    (datastore / "ceph" / "helper").write_text(NATIVE)
    (datastore / "ceph" / "helper").chmod(0o755)
    (location / "var" / "remotes" / "VERSION").write_text("6.8.3\n")
    (location / "etc").mkdir()
    (location / "etc" / "oned.conf").write_text(ONED_CONF)
    (location / "var" / "remotes").chmod(0o750)


def copy_checkout(target: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "remotes", "share"):
        shutil.copytree(REPOSITORY / name, target / name, ignore=ignored)
    for name in ("install.sh", "setup.cfg", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, target / name)
    return target


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it is now: other work on the repository must not make an installation look outdated."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def installed_once(installation: FrontEnd, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Installer:
    """One installation, in a path with a blank; tests get copies of it. It is made where one before it got as far as
    the venv, which takes long to build: it is the one of all tests.
    """
    one = Installer(checkout, tmp_path_factory.mktemp("front end") / "one nebula")
    make_front_end(one.location)
    (built,) = (installation.location / "lib" / "oneconvert").glob("venv-*")
    copy_installation(built, one.lib / built.name)
    (one.lib / "manifest").write_text("d lib\nd lib/oneconvert\n")
    before = native_files(one)
    one.succeed()
    assert native_files(one) == before
    return one


def native_files(one: Installer) -> dict[str, tuple[object, ...]]:
    return {
        path: value
        for name in ("ceph", "common", "dummy", "fs")
        for path, value in snapshot(one.datastore / name, times=True).items()
    }


@pytest.fixture
def installed(installed_once: Installer, tmp_path: Path) -> Installer:
    location = tmp_path / "one nebula"
    copy_installation(installed_once.location, location)
    return Installer(installed_once.checkout, location)


@pytest.fixture
def fresh(checkout: Path, tmp_path: Path) -> Installer:
    make_front_end(tmp_path / "one")
    return Installer(checkout, tmp_path / "one")


def test_layout(installed_once: Installer) -> None:
    one = installed_once
    assert one.wrappers() == {
        "oneconvert_ceph": set(ACTIONS),
        "oneconvert_dummy": {*ACTIONS, "restore"},
        "oneconvert_fs": set(ACTIONS),
    }
    assert re.fullmatch(r"venv-[0-9a-f]{12}", one.venv())
    assert one.venvs() == {one.venv()}
    version = subprocess.run([one.location / "bin" / "oneconvert", "--version"], capture_output=True, text=True)
    assert re.fullmatch(r"oneconvert \d+\.\d+\.\d+\n", version.stdout)
    default = (REPOSITORY / "remotes" / "etc" / "oneconvert" / "oneconvert.conf").read_text()
    assert one.config.read_text() == default
    assert (one.lib / "share" / "oneconvert.conf").read_text() == default


def test_only_thin_files_are_below_remotes(installed_once: Installer) -> None:
    for path in installed_once.datastore.glob("oneconvert_*/*"):
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o755
        assert status.st_size < 2048
        original = "cp" if path.name in ("cp", "stat") else "delegate"
        assert path.read_bytes() == (REPOSITORY / "remotes" / "datastore" / "oneconvert" / original).read_bytes()


def test_delegated_action_reaches_the_native_driver(installed_once: Installer) -> None:
    action = installed_once.datastore / "oneconvert_fs" / "rm"
    answer = subprocess.run([action, "with blank", "7"], capture_output=True, text=True)
    assert answer.stdout == "native rm with blank 7\n"


def test_cp_runs_the_installed_code(installed: Installer) -> None:
    """Without a document it can only refuse, in one sentence; a Python that is not there would say something else."""
    cp = installed.datastore / "oneconvert_fs" / "cp"
    answer = subprocess.run(
        [cp, "7"], env=installed.environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert "No module" not in answer.stderr


def test_prints_what_oned_conf_needs(installed: Installer) -> None:
    output = installed.succeed()
    assert "-d dummy,fs,ceph,oneconvert_ceph,oneconvert_dummy,oneconvert_fs -s shared,ssh" in output
    assert 'NAME = "oneconvert_ceph", REQUIRED_ATTRS = "DISK_TYPE,BRIDGE_LIST"' in output
    assert 'DS_MAD="oneconvert_fs"' in output
    assert "\x1b" not in output
    assert (installed.location / "etc" / "oned.conf").read_text() == ONED_CONF


def test_twice_changes_nothing(installed_once: Installer) -> None:
    before = installed_once.state()
    assert "unchanged" in installed_once.succeed()
    assert installed_once.state() == before


def test_uninstall_restores_the_tree(installed: Installer, fresh: Installer) -> None:
    output = installed.succeed("--uninstall")
    assert "3 drivers" in output
    assert installed.state(times=False) == fresh.state(times=False)
    assert "nothing to remove" in installed.succeed("--uninstall")
    assert installed.state(times=False) == fresh.state(times=False)


def test_uninstall_keeps_what_others_made(installed: Installer, fresh: Installer) -> None:
    settings = "[oneconvert]\nunset_driver = raw\n"
    installed.config.write_text(settings)
    note = installed.datastore / "oneconvert_fs" / "note"
    note.write_text("an administrator's\n")
    log = installed.location / "var" / "oneconvert.log"
    log.write_text("an import\n")
    own_cp = installed.datastore / "oneconvert_ceph" / "cp"
    own_cp.write_text(NATIVE)
    (installed.location / "etc" / "oned.conf").write_text('ARGUMENTS = "-d fs,oneconvert_fs"\n')

    output = installed.succeed("--uninstall")
    saved = re.search(r"your settings: (/\S+)", output)
    assert saved
    assert Path(saved[1]).read_text() == settings
    Path(saved[1]).unlink()
    for kept in (note.parent, own_cp, log):
        assert f"{kept}: " in output
        assert kept.exists()
    assert "switch datastores" in output
    left = set(installed.state()) - set(fresh.state())
    assert {path for path in left if (installed.location / path).is_file()} == {
        str(path.relative_to(installed.location)) for path in (note, own_cp, log)
    }


def test_drivers_limits_the_choice(installed: Installer) -> None:
    shutil.rmtree(installed.datastore / "oneconvert_ceph")
    shutil.rmtree(installed.datastore / "oneconvert_fs")
    (installed.datastore / "oneconvert_dummy" / "rm").unlink()
    assert "oneconvert_ceph" not in installed.succeed("--drivers", "fs")
    assert installed.wrappers() == {
        "oneconvert_dummy": {*ACTIONS, "restore"} - {"rm"},
        "oneconvert_fs": set(ACTIONS),
    }


def test_unknown_driver(installed: Installer) -> None:
    before = installed.state()
    answer = installed.run("--drivers", "fs,cehp")
    assert answer.returncode == 1
    assert answer.stderr == "install.sh: there is no datastore driver 'cehp' here; there is: ceph, dummy, fs\n"
    assert installed.state() == before


def test_vcenter_needs_no_native_driver_and_once_asked_for_it_is_upgraded_with_the_others(installed: Installer) -> None:
    assert "oneconvert_vcenter" not in installed.wrappers()
    output = installed.succeed("--drivers", "vcenter")
    assert "VCENTER_INSTANCE_ID,VCENTER_DS_REF,VCENTER_DC_REF" in output
    for _ in range(2):
        assert installed.wrappers()["oneconvert_vcenter"] == set(ACTIONS)
        for path in (installed.datastore / "oneconvert_vcenter").iterdir():
            assert path.read_bytes() == (REPOSITORY / "remotes" / "datastore" / "oneconvert" / "cp").read_bytes()
        installed.succeed()


def test_wrappers_follow_the_native_drivers(installed: Installer) -> None:
    shutil.rmtree(installed.datastore / "dummy")
    (installed.datastore / "fs" / "snap_flatten").unlink()
    (installed.datastore / "ceph" / "export").chmod(0o644)
    make_native(installed.datastore / "lvm")
    output = installed.succeed()
    assert "oneconvert_dummy: its native driver is gone" in output
    assert installed.wrappers() == {
        "oneconvert_ceph": {*ACTIONS} - {"export"},
        "oneconvert_fs": {*ACTIONS} - {"snap_flatten"},
        "oneconvert_lvm": set(ACTIONS),
    }
    before = installed.state()
    installed.succeed()
    assert installed.state() == before


def test_upgrade(installed: Installer, tmp_path: Path) -> None:
    """The administrator's settings stay, the venv before stays for imports that run, an older one goes."""
    old = installed.venv()
    (installed.lib / "venv-000000000000").mkdir()
    installed.config.write_text("[oneconvert]\nunset_driver = raw\n")
    installed.config.chmod(0o640)
    new = Installer(copy_checkout(tmp_path / "new checkout"), installed.location)
    (new.checkout / "src" / "oneconvert" / "later.py").write_text('"""New in this version."""\n')
    default = new.checkout / "remotes" / "etc" / "oneconvert" / "oneconvert.conf"
    default.write_text(default.read_text() + "\n#later =\n")

    # Byte code is not what this is about, and takes a while to make.
    output = new.succeed(ONECONVERT_PIP_ARGS="--no-compile")
    assert new.venv() != old
    assert new.venvs() == {old, new.venv()}
    subprocess.run([new.lib / "venv" / "bin" / "python3", "-I", "-B", "-c", "import oneconvert.later"], check=True)
    subprocess.run([new.lib / old / "bin" / "python3", "-I", "-B", "-c", "import oneconvert.cli.main"], check=True)
    assert new.config.read_text() == "[oneconvert]\nunset_driver = raw\n"
    assert stat.S_IMODE(new.config.stat().st_mode) == 0o640
    assert f"kept; the new default is {new.lib}/share/oneconvert.conf" in output
    assert (new.lib / "share" / "oneconvert.conf").read_text() == default.read_text()
    assert sorted(path.name for path in new.checkout.iterdir()) == sorted(
        path.name for path in installed.checkout.iterdir()
    )

    # Back to the version before: it is still there.
    assert "building" not in installed.succeed()
    assert installed.venv() == old


def test_unchanged_settings_follow_the_new_default(installed: Installer, tmp_path: Path) -> None:
    new = Installer(copy_checkout(tmp_path / "new"), installed.location)
    shutil.rmtree(new.checkout / "src")
    shutil.copytree(installed.checkout / "src", new.checkout / "src")
    default = new.checkout / "remotes" / "etc" / "oneconvert" / "oneconvert.conf"
    default.write_text(default.read_text() + "\n#later =\n")
    new.succeed()
    assert new.config.read_text() == default.read_text()


def test_failed_first_installation_leaves_nothing(fresh: Installer) -> None:
    before = fresh.state(times=False)
    answer = fresh.run(ONECONVERT_PIP_ARGS="--no-such-option")
    assert answer.returncode == 1
    assert "no such option" in answer.stderr
    assert fresh.state(times=False) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_upgrade_leaves_the_installation(
    installed: Installer, tmp_path: Path, number: signal.Signals
) -> None:
    before = installed.state(times=False)
    new = Installer(copy_checkout(tmp_path / "new"), installed.location)
    (new.checkout / "src" / "oneconvert" / "later.py").write_text('"""New in this version."""\n')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert new.interrupt_while_building(number, TMPDIR=str(temporary)) == 128 + number
    assert installed.state(times=False) == before
    assert list(temporary.iterdir()) == []


def test_broken_venv_is_built_again(installed: Installer) -> None:
    """Here it is told by a package that is gone; a distribution's new Python looks the same."""
    shutil.rmtree(next(installed.lib.glob("venv-*/lib/python*/site-packages/lxml")))
    shutil.rmtree(next(installed.lib.glob("venv-*/lib/python*/site-packages/lxml-*")))
    assert installed.interrupt_while_building(signal.SIGTERM) == 128 + signal.SIGTERM


def test_foreign_file_in_our_place(fresh: Installer) -> None:
    make_native(fresh.datastore / "oneconvert_ceph", ("cp",))
    before = fresh.state()
    answer = fresh.run()
    assert answer.returncode == 1
    assert answer.stderr.endswith("oneconvert_ceph/cp is not from oneconvert; move it away first\n")
    assert fresh.state() == before


def test_no_opennebula(fresh: Installer) -> None:
    shutil.rmtree(fresh.datastore)
    answer = fresh.run()
    assert answer.returncode == 1
    assert re.fullmatch(r"install\.sh: there is no OpenNebula here: .*\n", answer.stderr)


def test_unknown_option(fresh: Installer) -> None:
    answer = fresh.run("--frobnicate")
    assert answer.returncode == 2
    assert "--frobnicate" in answer.stderr


def test_the_demo_shows_an_import_without_an_opennebula(installed: Installer, tmp_path: Path) -> None:
    """The code is borrowed here: a complete venv of the same version is not built again."""
    demo = Installer(copy_checkout(tmp_path / "checkout"), tmp_path / "nowhere")
    shutil.rmtree(demo.checkout / "src")
    shutil.copytree(installed.checkout / "src", demo.checkout / "src")
    lib = demo.checkout / ".demo" / "lib" / "oneconvert"
    lib.mkdir(parents=True)
    current = (installed.lib / "venv").resolve()
    (lib / current.name).symlink_to(current)
    (lib / "venv").symlink_to(current.name)
    output = demo.succeed("--demo", "--driver", "raw")
    assert re.search(r"standard output +/\S+ raw\n", output)
    assert "qemu-img compare: Images are identical." in output
    assert "/etc/hostname: webserver" in output


def test_help(fresh: Installer) -> None:
    assert fresh.succeed("--help").startswith("Usage: ")


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_files_get_their_owner(installed: Installer) -> None:
    """Below remotes the owner of remotes, elsewhere the owner of the directory that is there."""
    shutil.rmtree(installed.remotes / "etc")
    shutil.rmtree(installed.datastore / "oneconvert_fs")
    os.chown(installed.remotes, NOBODY, NOBODY)
    (installed.location / "bin" / "oneconvert").unlink()
    installed.succeed()
    made = [installed.remotes / "etc", installed.config.parent, installed.config, installed.datastore / "oneconvert_fs"]
    made += (installed.datastore / "oneconvert_fs").iterdir()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(NOBODY, NOBODY)}
    assert (installed.location / "bin" / "oneconvert").lstat().st_uid == os.geteuid()


# --- Missing packages ---------------------------------------------------------------------------------------------

LEFT_OUT = {"qemu-img", "apt-get", "dnf"}


@pytest.fixture
def public_place() -> Iterator[Path]:
    """A directory that another user can reach, with programs: all of the system's but qemu-img and its installers."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        programs = place / "bin"
        programs.mkdir()
        for directory in (Path("/usr/bin"), Path("/bin")):
            for program in directory.iterdir():
                if program.name not in LEFT_OUT and not (programs / program.name).is_symlink():
                    (programs / program.name).symlink_to(program)
        yield place


def provide(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


@pytest.mark.parametrize(
    ("manager", "advice"),
    [
        ("apt-get", "install it with: sudo apt-get install -y qemu-utils"),
        ("dnf", "install it with: sudo dnf install -y qemu-img"),
        (None, "install it and run this again"),
    ],
)
def test_missing_package_without_root(public_place: Path, manager: str | None, advice: str) -> None:
    one = Installer(copy_checkout(public_place / "checkout"), public_place / "one")
    make_front_end(one.location)
    if manager:
        provide(public_place / "bin", manager, "exit 1")
    if ROOT:
        for path in [one.location, *one.location.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    before = one.state()
    answer = one.run(user=NOBODY if ROOT else None, PATH=str(public_place / "bin"))
    assert answer.returncode == 1
    assert answer.stderr == f"install.sh: missing: qemu-img; {advice}\n"
    assert one.state() == before


@pytest.mark.skipif(not ROOT, reason="only root installs packages")
def test_root_installs_the_missing_package(installed: Installer, public_place: Path) -> None:
    programs = public_place / "bin"
    called = public_place / "called"
    provide(programs, "apt-get", f'echo "$@" >>{called}; [ "$1" = update ] || ln -s /bin/true {programs}/qemu-img')
    installed.succeed(PATH=str(programs))
    assert called.read_text() == "update\ninstall -y qemu-utils\n"


def test_no_packages(installed: Installer, public_place: Path) -> None:
    provide(public_place / "bin", "apt-get", "exit 1")
    assert "missing: qemu-img" in installed.succeed("--no-packages", PATH=str(public_place / "bin"))
