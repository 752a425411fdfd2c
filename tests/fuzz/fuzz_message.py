"""Fuzzes the reader of oned's documents: whatever the bytes, a request or the product's own error."""

from __future__ import annotations

import base64
import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["oneconvert"]):
    from oneconvert.errors import OneconvertError
    from oneconvert.opennebula.document import Document
    from oneconvert.opennebula.request import read_request

SEED = (
    "<DS_DRIVER_ACTION_DATA><IMAGE><ID>42</ID><TYPE>0</TYPE><PATH><![CDATA[http://h/x]]></PATH><SIZE>1</SIZE>"
    "<TEMPLATE><MD5>{}</MD5><FROM_APP_MD5/></TEMPLATE></IMAGE><DATASTORE><ID>1</ID><TYPE>0</TYPE><BASE_PATH>/b"
    "</BASE_PATH><TEMPLATE><DRIVER>raw</DRIVER><LIMIT_TRANSFER_BW>5M</LIMIT_TRANSFER_BW><SAFE_DIRS>/a</SAFE_DIRS>"
    "</TEMPLATE></DATASTORE></DS_DRIVER_ACTION_DATA>"
).format("0" * 32)


def fuzz(data: bytes) -> None:
    """The first byte says whether the rest is the payload, XML, or a change of a document that is right."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 2)
    if kind == 0:
        payload = provider.ConsumeBytes(len(data))
    elif kind == 1:
        payload = base64.b64encode(provider.ConsumeBytes(len(data)))
    else:
        start = provider.ConsumeIntInRange(0, len(SEED))
        end = provider.ConsumeIntInRange(start, len(SEED))
        text = provider.ConsumeUnicodeNoSurrogates(len(data))
        payload = base64.b64encode((SEED[:start] + text + SEED[end:]).encode())
    with suppress(OneconvertError):
        document = Document.decode(payload)
        read_request(document)
        document.set("IMAGE/PATH", "/x")
        document.remove("MARKETPLACE")
        Document.decode(document.encode())


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
