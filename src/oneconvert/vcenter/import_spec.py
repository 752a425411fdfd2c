"""The description of an appliance with one disk, by which a vCenter takes a disk in.

Source: DMTF DSP0243, "Open Virtualization Format Specification" 1.1; the types of resources are those of DSP1041 and of
CIM_ResourceAllocationSettingData: 3 processor, 4 memory, 5 IDE controller, 6 SCSI controller, 17 disk.
"""

from __future__ import annotations

from dataclasses import dataclass

DISK_FILE = "disk.vmdk"
STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
# The adapter of a disk -> the controller of the appliance: resource type and subtype. Others are later kinds of SCSI
# controllers, which make no difference to the disk.
CONTROLLERS = {"ide": (5, ""), "buslogic": (6, "buslogic")}
SCSI = (6, "lsilogic")

NAMESPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
    'xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"'
)


@dataclass(frozen=True)
class Item:
    """A resource of the virtual machine. ``others`` are elements of it in the order of their names."""

    number: int
    type: int
    others: tuple[tuple[str, str], ...] = ()

    def xml(self) -> str:
        """The element; those within it must come in alphabetical order."""
        elements = sorted(
            (
                ("ElementName", f"item {self.number}"),
                ("InstanceID", str(self.number)),
                ("ResourceType", str(self.type)),
                *self.others,
            )
        )
        return "<Item>" + "".join(f"<rasd:{name}>{text}</rasd:{name}>" for name, text in elements) + "</Item>"


def envelope(name: str, file_size: int, capacity: int, adapter_type: str) -> str:
    """The descriptor of a virtual machine ``name``, of plain characters, whose disk of ``capacity`` bytes comes in a
    streamOptimized VMDK of ``file_size`` bytes.
    """
    kind, subtype = CONTROLLERS.get(adapter_type.lower(), SCSI)
    items = (
        Item(1, 3, (("VirtualQuantity", "1"),)),
        Item(2, 4, (("AllocationUnits", "byte * 2^20"), ("VirtualQuantity", "128"))),
        Item(3, kind, (("Address", "0"), *((("ResourceSubType", subtype),) if subtype else ()))),
        Item(4, 17, (("AddressOnParent", "0"), ("HostResource", "ovf:/disk/disk1"), ("Parent", "3"))),
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Envelope {NAMESPACES}>'
        f'<References><File ovf:href="{DISK_FILE}" ovf:id="file1" ovf:size="{file_size}"/></References>'
        "<DiskSection><Info>Disks</Info>"
        f'<Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" '
        f'ovf:format="{STREAM_OPTIMIZED}"/></DiskSection>'
        f'<VirtualSystem ovf:id="{name}"><Info>A disk on its way in</Info><Name>{name}</Name>'
        '<OperatingSystemSection ovf:id="1"><Info>None</Info></OperatingSystemSection>'
        "<VirtualHardwareSection><Info>Hardware</Info>"
        "<System><vssd:ElementName>Hardware</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>"
        "<vssd:VirtualSystemType>vmx-07</vssd:VirtualSystemType></System>"
        f"{''.join(item.xml() for item in items)}</VirtualHardwareSection></VirtualSystem></Envelope>"
    )
