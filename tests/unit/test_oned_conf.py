"""The lines for oned.conf, and ``oneconvert oned-conf`` that prints them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneconvert.cli.main import main
from oneconvert.errors import SettingsError
from oneconvert.opennebula.oned_conf import (
    DEFAULTS,
    Section,
    add_to_arguments,
    datastore_mad,
    ds_mad_conf,
    lines_to_add,
    parse,
)

SNIPPET = Path(__file__).parents[2] / "share" / "oned.conf" / "oneconvert.conf"

ONED_CONF = """
# DATASTORE_MAD = [ ARGUMENTS = "a comment" ]
PORT = 2633
LISTEN_ADDRESS = "0.0.0.0"
LOG = [
  SYSTEM      = "file",
  DEBUG_LEVEL = 3   # 0 = ERROR
]
MONITORING_INTERVAL_HOST=180
VM_MAD = [ sunstone_name = "KVM", ARGUMENTS = "-l \\"a,b\\" [x]",
    # in between
    NAME = kvm ]
DATASTORE_MAD = [
    EXECUTABLE = "one_datastore",
    ARGUMENTS  = "-t 15 -d dummy,fs,ceph -s shared,ssh,ceph"
]
DATASTORE_MAD = [ ARGUMENTS = "-d not_in_force" ]
DS_MAD_CONF = [ NAME = "ceph", REQUIRED_ATTRS = "DISK_TYPE,BRIDGE_LIST,OURS", PERSISTENT_ONLY = "YES",
    DATASTORE_CAPACITY_CHECK = "NO" ]
DS_MAD_CONF = [
    NAME = "fs", REQUIRED_ATTRS = "", PERSISTENT_ONLY = "NO",
    MARKETPLACE_ACTIONS = "export"
]"""


def test_parse() -> None:
    sections = parse(ONED_CONF)
    assert [section.name for section in sections] == [
        "LOG",
        "VM_MAD",
        "DATASTORE_MAD",
        "DATASTORE_MAD",
        "DS_MAD_CONF",
        "DS_MAD_CONF",
    ]
    assert sections[0].attributes == {"SYSTEM": "file", "DEBUG_LEVEL": "3"}
    assert sections[1].attributes == {"SUNSTONE_NAME": "KVM", "ARGUMENTS": '-l "a,b" [x]', "NAME": "kvm"}


@pytest.mark.parametrize("text", ["", "\n# only a comment", "PORT = 1", "PORT = 1\n", "EMPTY = \nPORT = 1"])
def test_parse_without_sections(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A = 1\nnonsense\n", 2),
        ('A = [ B = "1"\n\n', 1),
        ('A = [\n  B = "1,\n  C = 2 ]', 2),
        ("A = [\n  = 2 ]", 2),
        ("\n]", 2),
    ],
)
def test_parse_names_the_line_it_does_not_understand(text: str, line: int) -> None:
    with pytest.raises(SettingsError, match=f"in line {line}$"):
        parse(text)


def test_parse_takes_linear_time() -> None:
    with pytest.raises(SettingsError):
        parse("#" * 200_000 + "\n" + " \n" * 200_000 + "A" * 200_000)


def test_the_first_datastore_mad_is_in_force() -> None:
    section = datastore_mad(parse(ONED_CONF))
    assert section is not None
    assert section.attributes["EXECUTABLE"] == "one_datastore"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-t 15 -d dummy,fs -s shared", "-t 15 -d dummy,fs,oneconvert_fs,oneconvert_ceph -s shared"),
        ("-d fs", "-d fs,oneconvert_fs,oneconvert_ceph"),
        ("-dfs -t 15", "-dfs,oneconvert_fs,oneconvert_ceph -t 15"),
        ("-t 15 --ds-types fs", "-t 15 --ds-types fs,oneconvert_fs,oneconvert_ceph"),
        ("--ds-types=fs  -w 60", "--ds-types=fs,oneconvert_fs,oneconvert_ceph  -w 60"),
        ("-d oneconvert_ceph,fs", "-d oneconvert_ceph,fs,oneconvert_fs"),
        ("-t 15 -s shared,x-d", "-t 15 -s shared,x-d"),
        ("-t 15 --system-ds-types ssh", "-t 15 --system-ds-types ssh"),
    ],
)
def test_add_to_arguments(arguments: str, expected: str) -> None:
    added = add_to_arguments(arguments, ["fs", "ceph"])
    assert added == expected
    assert add_to_arguments(added, ["fs", "ceph"]) == expected


def test_ds_mad_conf_repeats_all_that_the_native_driver_has() -> None:
    assert ds_mad_conf(parse(ONED_CONF), "ceph").attributes == {
        "NAME": "oneconvert_ceph",
        "REQUIRED_ATTRS": "DISK_TYPE,BRIDGE_LIST,OURS",
        "PERSISTENT_ONLY": "YES",
        "DATASTORE_CAPACITY_CHECK": "NO",
    }


def test_ds_mad_conf_without_one_for_the_native_driver() -> None:
    assert ds_mad_conf((), "vcenter").attributes == {
        "NAME": "oneconvert_vcenter",
        "REQUIRED_ATTRS": "VCENTER_INSTANCE_ID,VCENTER_DS_REF,VCENTER_DC_REF",
        "PERSISTENT_ONLY": "NO",
        "MARKETPLACE_ACTIONS": "export",
    }
    assert ds_mad_conf((), "fs").attributes["MARKETPLACE_ACTIONS"] == "export"
    assert ds_mad_conf((), "unheard_of").attributes == {
        "NAME": "oneconvert_unheard_of",
        "REQUIRED_ATTRS": "",
        "PERSISTENT_ONLY": "NO",
    }


@pytest.mark.parametrize("value", ["", "a b", 'with "quotes"', "[x], y # z"])
def test_what_is_written_is_read_back(value: str) -> None:
    section = Section("DS_MAD_CONF", {"NAME": "fs", "OTHER": value})
    assert parse(section.one_line()) == (section,)
    assert parse(section.lines()) == (section,)


def test_lines_to_add_make_the_file_complete() -> None:
    added = lines_to_add(ONED_CONF, ["fs", "ceph"], "/etc/one/oned.conf")
    assert "-d dummy,fs,ceph,oneconvert_fs,oneconvert_ceph -s shared,ssh,ceph" in added
    assert [section.name for section in parse(added)] == ["DATASTORE_MAD", "DS_MAD_CONF", "DS_MAD_CONF"]
    # Pasted as they say: the one in place of DATASTORE_MAD, the others below.
    completed = added + ONED_CONF
    assert lines_to_add(completed, ["fs", "ceph"], "/etc/one/oned.conf").startswith("# /etc/one/oned.conf has all")
    assert [section.attributes["NAME"] for section in parse(lines_to_add(completed, ["fs", "x"], ""))[1:]] == [
        "oneconvert_x"
    ]


def test_lines_to_add_without_a_list_of_drivers() -> None:
    """Then one_datastore takes every driver that is installed."""
    added = lines_to_add('DATASTORE_MAD = [ ARGUMENTS = "-t 15" ]', ["fs"], "/etc/one/oned.conf")
    assert [section.name for section in parse(added)] == ["DS_MAD_CONF"]


def test_lines_to_add_without_a_file() -> None:
    added = lines_to_add(None, ["fs", "ceph"], "/etc/one/oned.conf")
    assert "#   ,oneconvert_fs,oneconvert_ceph\n" in added
    assert parse(added) == (ds_mad_conf((), "fs"), ds_mad_conf((), "ceph"))


def test_snippet_in_share_says_the_same() -> None:
    for section in parse(SNIPPET.read_text(encoding="utf-8")):
        native = section.attributes["NAME"].replace("oneconvert_", "", 1)
        assert native in DEFAULTS
        assert section == ds_mad_conf((), native)


# --- The command ------------------------------------------------------------------------------------------------


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONE_LOCATION", str(tmp_path))
    return tmp_path


def test_command_reads_the_oned_conf_of_this_opennebula(location: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (location / "etc").mkdir()
    (location / "etc" / "oned.conf").write_text(ONED_CONF)
    assert main(["oned-conf", "--drivers", "fs,oneconvert_ceph"]) == 0
    assert capsys.readouterr().out == lines_to_add(ONED_CONF, ["fs", "ceph"], f"{location}/etc/oned.conf")


def test_command_without_oned_conf_takes_the_installed_drivers(
    location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fs", "oneconvert_fs", "oneconvert_ceph"):
        (location / "var" / "remotes" / "datastore" / name).mkdir(parents=True)
        (location / "var" / "remotes" / "datastore" / name / "cp").touch()
    assert main(["oned-conf"]) == 0
    assert capsys.readouterr().out == lines_to_add(None, ["ceph", "fs"], f"{location}/etc/oned.conf")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["oned-conf"], r"no oneconvert driver is installed; .*"),
        (
            ["oned-conf", "--drivers", "fs", "--file", "/nonexistent/oned.conf"],
            r"cannot read /nonexistent/oned.conf: .*",
        ),
        (["oned-conf", "--drivers", "fs", "--file", __file__], r"oned.conf is not understood: .*"),
    ],
)
def test_command_errors_are_one_sentence(
    location: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(arguments) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert re.fullmatch(f"oneconvert: {sentence}\n", answer.err)


@pytest.mark.parametrize("arguments", [[], ["oned-conf", "--drivers", ","], ["unheard-of"]])
def test_command_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
