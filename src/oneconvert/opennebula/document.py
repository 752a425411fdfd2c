"""The document that oned sends with each action: base64 XML, read with a hardened parser, and written back."""

from __future__ import annotations

import base64
import binascii

from lxml import etree

from oneconvert.errors import MessageError

ROOT = "DS_DRIVER_ACTION_DATA"
MAX_DOCUMENT = 64 * 1024 * 1024


class Document:
    """A ``DS_DRIVER_ACTION_DATA`` document.

    Elements are named by their path below the root, e.g. ``IMAGE/TEMPLATE/MD5``.
    """

    def __init__(self, root: etree._Element) -> None:
        self._root = root

    @classmethod
    def decode(cls, payload: bytes) -> Document:
        """Decode base64 (white space is tolerated, as in one_datastore.rb) and parse.

        Raises MessageError for anything that is not such a document, and for a document with a DOCTYPE: oned never
        sends one, and entities are how XML reads files and fills memory.
        """
        if len(payload) > MAX_DOCUMENT:
            raise MessageError(f"the document from oned is larger than {MAX_DOCUMENT} bytes")
        try:
            xml = base64.b64decode(b"".join(payload.split()), validate=True)
        except (binascii.Error, ValueError):
            raise MessageError("the document from oned is not base64") from None
        if not xml:
            raise MessageError("oned sent no document; this driver is called by OpenNebula, not by hand")
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
        )
        try:
            root = etree.fromstring(xml, parser)
        except (etree.XMLSyntaxError, ValueError):
            raise MessageError(
                "the document from oned is not well-formed XML; look for ']]>' in the attributes of the image"
            ) from None
        if root.getroottree().docinfo.internalDTD is not None:
            raise MessageError("the document from oned has a DOCTYPE, which oned never sends")
        if root.tag != ROOT:
            raise MessageError(f"the document from oned is not a {ROOT}")
        return cls(root)

    def text(self, path: str, default: str = "") -> str:
        """The text of the first element at ``path``, stripped; ``default`` when it is missing or empty."""
        element = self._root.find(path)
        if element is None:
            return default
        return str(element.xpath("string()")).strip() or default

    def has(self, path: str) -> bool:
        """Whether there is an element at ``path``."""
        return self._root.find(path) is not None

    def set(self, path: str, text: str) -> None:
        """Make ``text`` the only value at ``path``, creating the last element where it is missing."""
        parent_path, _, tag = path.rpartition("/")
        parent = self._root.find(parent_path)
        if parent is None:
            raise MessageError(f"the document from oned has no {parent_path}")
        found = parent.findall(tag)
        for extra in found[1:]:
            parent.remove(extra)
        element = found[0] if found else etree.SubElement(parent, tag)
        for child in list(element):
            element.remove(child)
        element.text = etree.CDATA(text)

    def remove(self, path: str) -> None:
        """Remove every element at ``path``."""
        for element in self._root.findall(path):
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)

    def encode(self) -> bytes:
        """The document as oned would send it: UTF-8, no declaration, base64 without line breaks."""
        return base64.b64encode(etree.tostring(self._root, encoding="utf-8", xml_declaration=False))
