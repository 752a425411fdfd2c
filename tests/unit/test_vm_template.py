"""VM templates as oned is given them, and names as vSphere has them."""

from __future__ import annotations

import pytest
from lxml import etree

from oneconvert.opennebula.vm_template import VMTemplate, document
from oneconvert.vcenter.inventory import escaped_name, plain_name


@pytest.mark.parametrize("text", ['a "quoted" name', "ends with \\", "<b> & ]]>", "été", "[a=1, b]", "#x", "a\nb"])
def test_every_text_arrives_as_it_is(text: str) -> None:
    given = VMTemplate(text, 7, 1, 512, "vm-1", "domain-c7", "uuid", pool=text, folder=text, network_id=3)
    sent = document(given.attributes())
    # By that oned tells XML from its own syntax.
    assert sent.startswith("<TEMPLATE>")
    read = etree.fromstring(sent)
    for name in ("NAME", "VCENTER_RESOURCE_POOL", "VCENTER_VM_FOLDER"):
        assert [each.text for each in read.findall(name)] == [text]
    assert read.findtext("NIC/NETWORK_ID") == "3"


def test_what_is_not_asked_for_is_left_to_opennebula() -> None:
    names = [name for name, _ in VMTemplate("a", 7, 1, 512, "vm-1", "domain-c7", "uuid").attributes()]
    assert not {"VCENTER_RESOURCE_POOL", "VCENTER_VM_FOLDER", "NIC"} & set(names)


@pytest.mark.parametrize(
    "plain, escaped", [("a", "a"), ("50% off", "50%25 off"), ("a/b\\c", "a%2fb%5cc"), ("%41", "%2541")]
)
def test_names_with_what_vsphere_escapes(plain: str, escaped: str) -> None:
    assert escaped_name(plain) == escaped
    assert plain_name(escaped) == plain_name(escaped.replace("%2f", "%2F")) == plain
    assert escaped_name(escaped) == escaped
