"""The lines that oned.conf needs for oneconvert, worked out from the oned.conf that is there. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from oneconvert.errors import SettingsError
from oneconvert.opennebula.invocation import PREFIX

# DS_MAD_CONF of the native drivers, for an oned.conf that does not say; the same values as in OpenNebula's own.
_EXPORTS = {"PERSISTENT_ONLY": "NO", "MARKETPLACE_ACTIONS": "export"}
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "fs": {"REQUIRED_ATTRS": "", **_EXPORTS},
    "ceph": {"REQUIRED_ATTRS": "DISK_TYPE,BRIDGE_LIST", **_EXPORTS},
    "vcenter": {"REQUIRED_ATTRS": "VCENTER_INSTANCE_ID,VCENTER_DS_REF,VCENTER_DC_REF", **_EXPORTS},
    "lvm": {"REQUIRED_ATTRS": "", "PERSISTENT_ONLY": "NO"},
    "dummy": {"REQUIRED_ATTRS": "", "PERSISTENT_ONLY": "NO"},
    "dev": {"REQUIRED_ATTRS": "DISK_TYPE", "PERSISTENT_ONLY": "YES"},
    "iscsi_libvirt": {"REQUIRED_ATTRS": "DISK_TYPE,ISCSI_HOST", "PERSISTENT_ONLY": "YES"},
    "restic": {"REQUIRED_ATTRS": "RESTIC_PASSWORD", "PERSISTENT_ONLY": "YES"},
    "rsync": {"REQUIRED_ATTRS": "RSYNC_HOST,RSYNC_USER", "PERSISTENT_ONLY": "YES"},
    "virtiofs": {"REQUIRED_ATTRS": "", "PERSISTENT_ONLY": "NO", "DATASTORE_CAPACITY_CHECK": "NO"},
}
# For a driver that neither oned.conf nor the list above knows: nothing required, nothing forbidden.
UNKNOWN: Mapping[str, str] = {"REQUIRED_ATTRS": "", "PERSISTENT_ONLY": "NO"}


@dataclass(frozen=True)
class Section:
    """A vector attribute, ``NAME = [ KEY = "value", ... ]``, with its keys in capital letters as oned reads them."""

    name: str
    attributes: Mapping[str, str]

    def one_line(self) -> str:
        """The section as a line of oned.conf."""
        return f"{self.name} = [ {', '.join(self._pairs())} ]"

    def lines(self) -> str:
        """The section with a line for each attribute."""
        pairs = ",\n".join(f"    {pair}" for pair in self._pairs())
        return f"{self.name} = [\n{pairs}\n]"

    def _pairs(self) -> Iterable[str]:
        for key, value in self.attributes.items():
            quoted = value.replace('"', r"\"")
            yield f'{key} = "{quoted}"'


# --- Reading ---------------------------------------------------------------------------------------------------------

_IGNORED = re.compile(r"(?:\s+|#[^\n]*)*")
_NAME = re.compile(r'([^\s=#,"\[\]]+)\s*=(?:\s*(?=["\[])|[ \t]*)')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^\n]*")
_BARE_IN_SECTION = re.compile(r"[^\n,\]#]*")


class _Reader:
    """Walks once over the text of an oned.conf."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def sections(self) -> Iterable[Section]:
        while not self._at_end():
            name = self._take(_NAME, "NAME =").upper()
            if self._next() == "[":
                yield Section(name, self._attributes(name))
            else:
                self._value(_BARE)

    def _attributes(self, section: str) -> Mapping[str, str]:
        opened_at = self.position
        self.position += 1
        attributes: dict[str, str] = {}
        while not self._at_end():
            if self._next() == "]":
                self.position += 1
                return attributes
            if self._next() == ",":
                self.position += 1
                continue
            key = self._take(_NAME, f"an attribute of {section}").upper()
            attributes[key] = self._value(_BARE_IN_SECTION)
        self.position = opened_at
        raise self._error(f"a ']' for {section}")

    def _value(self, bare: re.Pattern[str]) -> str:
        if self._next() == '"':
            return self._take(_QUOTED, "a closing '\"'").replace(r"\"", '"')
        return self._take(bare, "a value").strip()

    def _at_end(self) -> bool:
        ignored = _IGNORED.match(self.text, self.position)
        if ignored is not None:
            self.position = ignored.end()
        return self.position == len(self.text)

    def _next(self) -> str:
        return self.text[self.position : self.position + 1]

    def _take(self, pattern: re.Pattern[str], expected: str) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise self._error(expected)
        self.position = match.end()
        return match[match.lastindex or 0]

    def _error(self, expected: str) -> SettingsError:
        line = self.text.count("\n", 0, self.position) + 1
        return SettingsError(f"oned.conf is not understood: expected {expected} in line {line}")


def parse(text: str) -> tuple[Section, ...]:
    """The sections of an oned.conf, in their order; attributes that are no sections are left out.

    Raises SettingsError with the line that is not understood.
    """
    return tuple(_Reader(text).sections())


# --- The new lines ---------------------------------------------------------------------------------------------------

# How one_datastore takes its list of drivers: -d LIST, -dLIST, --ds-types LIST or --ds-types=LIST.
_DRIVER_LIST = re.compile(r"(?:^|(?<=\s))(?:-d\s*|--ds-types(?:\s+|=))(?P<names>[^\s-]\S*)")


def datastore_mad(sections: Sequence[Section]) -> Section | None:
    """The DATASTORE_MAD section in force: oned uses the first."""
    return next((section for section in sections if section.name == "DATASTORE_MAD"), None)


def add_to_arguments(arguments: str, natives: Sequence[str]) -> str:
    """``arguments`` of DATASTORE_MAD with the oneconvert drivers for ``natives`` in its list of drivers.

    Names in the list stay where they are. Arguments without a list stay as they are: then one_datastore takes every
    driver that is installed.
    """
    match = _DRIVER_LIST.search(arguments)
    if match is None:
        return arguments
    names = match["names"].split(",")
    names += [PREFIX + native for native in natives if PREFIX + native not in names]
    return arguments[: match.start("names")] + ",".join(names) + arguments[match.end("names") :]


def ds_mad_conf(sections: Sequence[Section], native: str) -> Section:
    """DS_MAD_CONF for ``oneconvert_<native>``: all that oned.conf says about the native driver, under our name."""
    attributes = _ds_mad_conf_of(sections, native)
    if attributes is None:
        attributes = DEFAULTS.get(native, UNKNOWN)
    others = {key: value for key, value in attributes.items() if key != "NAME"}
    return Section("DS_MAD_CONF", {"NAME": PREFIX + native, **others})


def _ds_mad_conf_of(sections: Sequence[Section], driver: str) -> Mapping[str, str] | None:
    for section in sections:
        if section.name == "DS_MAD_CONF" and section.attributes.get("NAME") == driver:
            return section.attributes
    return None


def lines_to_add(text: str | None, natives: Sequence[str], path: str) -> str:
    """What the administrator has to put into the oned.conf at ``path``, each part below a comment that says where.

    ``text`` is its content, None where there is none to read: then the list of drivers can only be described. Lines
    that are there already are left out.

    Raises SettingsError when ``text`` is not understood.
    """
    sections = parse(text or "")
    parts = [part for part in (_arguments_part(sections, natives, path), _conf_part(sections, natives, path)) if part]
    if not parts:
        return f"# {path} has all that oneconvert needs.\n"
    return "\n".join(parts)


def _arguments_part(sections: Sequence[Section], natives: Sequence[str], path: str) -> str:
    section = datastore_mad(sections)
    if section is None or "ARGUMENTS" not in section.attributes:
        names = "".join(f",{PREFIX}{native}" for native in natives)
        return f"# In {path}, append to the -d list in the ARGUMENTS of DATASTORE_MAD:\n#   {names}\n"
    arguments = add_to_arguments(section.attributes["ARGUMENTS"], natives)
    if arguments == section.attributes["ARGUMENTS"]:
        return ""
    changed = Section(section.name, {**section.attributes, "ARGUMENTS": arguments})
    return f"# In {path}, instead of the DATASTORE_MAD that is there:\n{changed.lines()}\n"


def _conf_part(sections: Sequence[Section], natives: Sequence[str], path: str) -> str:
    missing = [native for native in natives if _ds_mad_conf_of(sections, PREFIX + native) is None]
    if not missing:
        return ""
    lines = "".join(f"{ds_mad_conf(sections, native).one_line()}\n" for native in missing)
    return f"# In {path}, below the other DS_MAD_CONF:\n{lines}"
