"""VM templates of OpenNebula for virtual machines in vCenters, and what they refer to.

Facts: the attributes are those of "VM Template Definition" in OpenNebula's documentation of 6.8; oned takes a template
as XML where it begins with ``<`` (Template::parse_str_or_xml). Its own syntax cannot say every text: a backslash at the
end of one would escape the quote.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union

from lxml import etree

from oneconvert.errors import OnedError, OptionError
from oneconvert.opennebula.api import is_missing, oned
from oneconvert.opennebula.request import IMAGE_TYPES

# include/Image.h, ImageState
IMAGE_STATES = {0: "INIT", 1: "READY", 2: "USED", 3: "DISABLED", 4: "LOCKED", 5: "ERROR", 6: "CLONE", 7: "DELETE",
                8: "USED_PERS", 9: "LOCKED_USED", 10: "LOCKED_USED_PERS"}  # fmt: skip
OWN, ALL = -3, -2
"""Of the objects in a pool: those of the user who asks, and everybody's."""

Attribute = tuple[str, Union[str, "dict[str, str]"]]


@dataclass(frozen=True)
class ImageFacts:
    """An image that there is. ``registered`` is when, in seconds since 1970."""

    id: int
    name: str
    state: str
    type: str
    datastore_id: int
    registered: int


@dataclass(frozen=True)
class VMTemplate:
    """A VM template. ``memory`` is in MiB; ``template_ref`` and ``cluster_ref`` are of the vCenter ``instance_id``.

    ``pool`` and ``folder`` are paths, empty for the cluster's own, and for that of the template in the vCenter.
    """

    name: str
    image_id: int
    cpus: int
    memory: int
    template_ref: str
    cluster_ref: str
    instance_id: str
    pool: str = ""
    folder: str = ""
    network_id: int | None = None

    def attributes(self) -> tuple[Attribute, ...]:
        """What OpenNebula is told; those of its importer, and the disk."""
        given: list[Attribute] = [
            ("NAME", self.name),
            ("HYPERVISOR", "vcenter"),
            ("CPU", str(self.cpus)),
            ("VCPU", str(self.cpus)),
            ("MEMORY", str(self.memory)),
            ("VCENTER_TEMPLATE_REF", self.template_ref),
            ("VCENTER_CCR_REF", self.cluster_ref),
            ("VCENTER_INSTANCE_ID", self.instance_id),
        ]
        if self.pool:
            given.append(("VCENTER_RESOURCE_POOL", self.pool))
        if self.folder:
            given.append(("VCENTER_VM_FOLDER", self.folder))
        given.append(("DISK", {"IMAGE_ID": str(self.image_id)}))
        if self.network_id is not None:
            given.append(("NIC", {"NETWORK_ID": str(self.network_id)}))
        given.append(("GRAPHICS", {"TYPE": "vnc", "LISTEN": "0.0.0.0"}))  # noqa: S104 - of the ESXi host
        given.append(("CONTEXT", {"NETWORK": "YES", "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]"}))
        return tuple(given)


@dataclass(frozen=True)
class ExistingVMTemplate:
    """A VM template that there is, with the images of its disks."""

    id: int
    image_ids: frozenset[int]
    template_ref: str
    instance_id: str


def find_image(image_id: int) -> ImageFacts:
    """Raises OptionError when there is no such image, OnedError when oned does not tell."""
    try:
        with oned() as server:
            found = server.image.info(image_id)
    except OnedError as error:
        if not is_missing(error):
            raise
        raise OptionError(
            f"OpenNebula has no image {image_id}; --image takes the ID that oneimage list shows"
        ) from None
    return ImageFacts(
        id=image_id,
        name=str(found.NAME),
        state=IMAGE_STATES.get(int(found.STATE), "UNKNOWN"),
        type=IMAGE_TYPES.get(int(found.TYPE), "UNKNOWN"),
        datastore_id=int(found.DATASTORE_ID),
        registered=int(found.REGTIME),
    )


def find_vm_template(name: str) -> ExistingVMTemplate | None:
    """oneadmin's VM template of that name: there cannot be two. Raises OnedError."""
    with oned() as server:
        for each in server.templatepool.info(OWN, -1, -1).VMTEMPLATE:
            if str(each.NAME) == name:
                return _existing(each)
    return None


def find_network(name: str, instance_id: str) -> int:
    """The id of a virtual network of a vCenter, from its name or id. Raises OptionError, OnedError."""
    with oned() as server:
        networks = [
            (int(each.ID), str(each.NAME))
            for each in server.vnpool.info(ALL, -1, -1).VNET
            if _text(each.TEMPLATE, "VCENTER_INSTANCE_ID") == instance_id
        ]
    found = [ident for ident, its_name in networks if its_name == name]
    found = found or [ident for ident, _ in networks if str(ident) == name]
    if len(found) == 1:
        return found[0]
    if found:
        listed = " or ".join(str(ident) for ident in found)
        raise OptionError(f"several networks of OpenNebula are named {name}; say which: --network {listed}")
    raise OptionError(
        f"OpenNebula has no network {name} in this vCenter; --network can be "
        + (", ".join(sorted(its_name for _, its_name in networks)) or "used when one is imported")
    )


def document(attributes: Iterable[Attribute]) -> str:
    """The attributes as oned takes them."""
    root = etree.Element("TEMPLATE")
    for name, value in attributes:
        element = etree.SubElement(root, name)
        if isinstance(value, str):
            element.text = value
        else:
            for key, text in value.items():
                etree.SubElement(element, key).text = text
    return etree.tostring(root, encoding="unicode")


def allocate(vm_template: VMTemplate) -> int:
    """Make the VM template, and return its id. Raises OnedError."""
    text = document(vm_template.attributes())
    try:
        with oned() as server:
            return int(server.template.allocate(text))
    except OnedError as error:
        # It may have taken it, and only its answer be lost.
        try:
            found = find_vm_template(vm_template.name)
        except OnedError:
            raise error from None
        if found and found.template_ref == vm_template.template_ref:
            return found.id
        raise


def _existing(found: Any) -> ExistingVMTemplate:
    disks = found.TEMPLATE.get("DISK") or []
    ids = [_text(each, "IMAGE_ID") for each in (disks if isinstance(disks, list) else [disks])]
    return ExistingVMTemplate(
        id=int(found.ID),
        image_ids=frozenset(int(each) for each in ids if each.isdecimal()),
        template_ref=_text(found.TEMPLATE, "VCENTER_TEMPLATE_REF"),
        instance_id=_text(found.TEMPLATE, "VCENTER_INSTANCE_ID"),
    )


def _text(attributes: Any, name: str) -> str:
    return str((attributes or {}).get(name) or "").strip()
