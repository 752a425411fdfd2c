"""The message that oned (7.4) sends to the datastore driver when somebody downloads a marketplace app."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class App:
    """A marketplace app that is being downloaded; ``size_mib`` is what the marketplace says, ``md5`` may be empty."""

    name: str
    url: str
    size_mib: int
    md5: str


def document(app: App, image_id: int, datastore: Path, driver: str) -> str:
    """The document for a ``cp``, in the order and with the CDATA sections that oned writes."""
    rights = "".join(f"<{who}_{what}>{int(who == 'OWNER' and what != 'A')}</{who}_{what}>"
                     for who in ("OWNER", "GROUP", "OTHER") for what in "UMA")  # fmt: skip
    owner = (
        "<UID>0</UID><GID>0</GID><UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME>"
        "<NAME>{}</NAME><PERMISSIONS>" + rights + "</PERMISSIONS>"
    )
    checksum = f"<FROM_APP_MD5>{_cdata(app.md5)}</FROM_APP_MD5>" if app.md5 else ""
    image = (
        f"<IMAGE><ID>{image_id}</ID>{owner.format(escape(app.name))}<TYPE>0</TYPE><DISK_TYPE>0</DISK_TYPE>"
        f"<PERSISTENT>0</PERSISTENT><REGTIME>1795463958</REGTIME><MODTIME>1795463958</MODTIME>"
        f"<SOURCE>{_cdata('')}</SOURCE><PATH>{_cdata(app.url)}</PATH><FORMAT>{_cdata('')}</FORMAT><FS>{_cdata('')}</FS>"
        f"<SIZE>{app.size_mib}</SIZE><STATE>4</STATE><PREV_STATE>0</PREV_STATE><RUNNING_VMS>0</RUNNING_VMS>"
        f"<CLONING_OPS>0</CLONING_OPS><CLONING_ID>-1</CLONING_ID><TARGET_SNAPSHOT>-1</TARGET_SNAPSHOT>"
        f"<DATASTORE_ID>100</DATASTORE_ID><DATASTORE>images</DATASTORE><VMS></VMS><CLONES></CLONES>"
        f"<APP_CLONES></APP_CLONES><TEMPLATE><DEV_PREFIX>{_cdata('vd')}</DEV_PREFIX><FROM_APP>{_cdata('7')}</FROM_APP>"
        f"{checksum}<FROM_APP_NAME>{_cdata(app.name)}</FROM_APP_NAME></TEMPLATE><SNAPSHOTS></SNAPSHOTS>"
        f"<BACKUP_INCREMENTS></BACKUP_INCREMENTS><BACKUP_DISK_IDS></BACKUP_DISK_IDS></IMAGE>"
    )
    store = (
        f"<DATASTORE><ID>100</ID>{owner.format('images')}<DS_MAD>{_cdata('oneconvert_fs')}</DS_MAD>"
        f"<TM_MAD>{_cdata('qcow2')}</TM_MAD><BASE_PATH>{_cdata(str(datastore))}</BASE_PATH><TYPE>0</TYPE>"
        f"<DISK_TYPE>0</DISK_TYPE><STATE>0</STATE><CLUSTERS><ID>0</ID></CLUSTERS><TOTAL_MB>86845</TOTAL_MB>"
        f"<FREE_MB>20777</FREE_MB><USED_MB>1000</USED_MB><IMAGES></IMAGES><TEMPLATE><DRIVER>{_cdata(driver)}</DRIVER>"
        f"<RESTRICTED_DIRS>{_cdata('/')}</RESTRICTED_DIRS><SAFE_DIRS>{_cdata('/var/tmp')}</SAFE_DIRS>"
        f"<TYPE>{_cdata('IMAGE_DS')}</TYPE></TEMPLATE></DATASTORE>"
    )
    market = (
        f"<MARKETPLACE><ID>0</ID>{owner.format('demo')}<STATE>0</STATE><MARKET_MAD>{_cdata('http')}</MARKET_MAD>"
        f"<ZONE_ID>{_cdata('0')}</ZONE_ID><MARKETPLACEAPPS><ID>7</ID></MARKETPLACEAPPS><TEMPLATE></TEMPLATE>"
        f"</MARKETPLACE>"
    )
    return f"<DS_DRIVER_ACTION_DATA>{image}{store}{market}</DS_DRIVER_ACTION_DATA>"


def encode(text: str) -> bytes:
    """Base64 without line breaks, as oned sends it."""
    return base64.b64encode(text.encode())


def _cdata(text: str) -> str:
    return f"<![CDATA[{text}]]>"
