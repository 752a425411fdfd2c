"""The documents oned sends to a datastore driver, in the shape of each release.

Written after documents that running oneds sent. What a release adds or renames is stated once, in ``Messages._image``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Version = tuple[int, ...]

_NOW = 1795463958


def _element(name: str, *content: object) -> str:
    return f"<{name}>{''.join(str(part) for part in content)}</{name}>"


def _text(name: str, value: object = "") -> str:
    """An element whose value oned protects, because people can write anything into it."""
    return _element(name, f"<![CDATA[{value}]]>")


def _idents(name: str, idents: Iterable[int] = ()) -> str:
    return _element(name, *(_element("ID", ident) for ident in idents))


def _owned_by_oneadmin(ident: int, name: str) -> str:
    return (
        _element("ID", ident)
        + _element("UID", 0)
        + _element("GID", 0)
        + _element("UNAME", "oneadmin")
        + _element("GNAME", "oneadmin")
        + _element("NAME", name)
    )


def _permissions(granted: str) -> str:
    names = [f"{who}_{right}" for who in ("OWNER", "GROUP", "OTHER") for right in "UMA"]
    return _element("PERMISSIONS", *(_element(name, int(name in granted.split())) for name in names))


@dataclass(frozen=True)
class Datastore:
    """An image datastore on a file system. ``base_path`` is written as oned writes it."""

    ident: int
    base_path: str
    ds_mad: str
    driver: str | None = None
    safe_dirs: str = "/var/tmp"
    restricted_dirs: str = "/"
    images: tuple[int, ...] = ()
    kind: int = 0
    attributes: dict[str, str] = field(default_factory=dict)

    def document(self) -> str:
        tm_mad = "qcow2" if self.driver == "qcow2" else "ssh"
        template = {
            "CLONE_TARGET": "SYSTEM",
            "DISK_TYPE": "FILE",
            "DRIVER": self.driver,
            "DS_MAD": self.ds_mad,
            "LN_TARGET": "NONE" if tm_mad == "qcow2" else "SYSTEM",
            "RESTRICTED_DIRS": self.restricted_dirs,
            "SAFE_DIRS": self.safe_dirs,
            "TM_MAD": tm_mad,
            "TYPE": ("IMAGE_DS", "SYSTEM_DS", "FILE_DS", "BACKUP_DS")[self.kind],
            **self.attributes,
        }
        return _element(
            "DATASTORE",
            _owned_by_oneadmin(self.ident, f"images_{self.ident}"),
            _permissions("OWNER_U OWNER_M GROUP_U"),
            _text("DS_MAD", self.ds_mad),
            _text("TM_MAD", tm_mad),
            _text("BASE_PATH", self.base_path),
            _element("TYPE", self.kind),
            _element("DISK_TYPE", 0),
            _element("STATE", 0),
            _idents("CLUSTERS", [0]),
            _element("TOTAL_MB", 258020),
            _element("FREE_MB", 191761),
            _element("USED_MB", 66259),
            _idents("IMAGES", self.images),
            _element("TEMPLATE", *(_text(key, value) for key, value in template.items() if value is not None)),
        )


@dataclass(frozen=True)
class App:
    """The appliance of a marketplace that an image is downloaded from."""

    ident: int
    name: str
    md5: str
    market_url: str
    market_mad: str = "http"
    market: dict[str, str] = field(default_factory=dict)

    def attributes(self) -> dict[str, object]:
        return {"FROM_APP": self.ident, "FROM_APP_MD5": self.md5, "FROM_APP_NAME": self.name}

    def marketplace(self) -> str:
        return _element(
            "MARKETPLACE",
            _owned_by_oneadmin(100, "appliances"),
            _element("STATE", 0),
            _text("MARKET_MAD", self.market_mad),
            _text("ZONE_ID", 0),
            _element("TOTAL_MB", 258020),
            _element("FREE_MB", 191761),
            _element("USED_MB", 66259),
            _idents("MARKETPLACEAPPS", [self.ident]),
            _permissions("OWNER_U OWNER_M"),
            _element(
                "TEMPLATE",
                _text("BASE_URL", self.market_url),
                _text("MARKET_MAD", self.market_mad),
                _text("PUBLIC_DIR", "/srv/market"),
                *(_text(*pair) for pair in self.market.items()),
            ),
        )


@dataclass(frozen=True)
class _Image:
    """What differs between the images of these documents."""

    ident: int
    name: str
    size_mb: int
    datastore: Datastore
    path: str = ""
    source: str = ""
    disk_format: str = ""
    kind: int = 0
    state: int = 4
    cloned_from: int = -1
    attributes: dict[str, object] = field(default_factory=dict)


class Messages:
    """Documents as oned of one release writes them."""

    def __init__(self, version: Version) -> None:
        self._version = version

    @property
    def tell_formats(self) -> bool:
        """Whether drivers of this release answer 'SOURCE FORMAT'; before, oned took only the SOURCE."""
        return self._version >= (6,)

    def cp(
        self,
        ident: int,
        path: str,
        size_mb: int,
        datastore: Datastore,
        app: App | None = None,
        kind: int = 0,
        attributes: dict[str, object] | None = None,
    ) -> str:
        template = {**(app.attributes() if app else {}), **(attributes or {})}
        image = _Image(ident, f"image_{ident}", size_mb, datastore, path=path, kind=kind, attributes=template)
        return self._action(self._image(image), datastore.document(), app.marketplace() if app else "")

    def mkfs(self, ident: int, disk_format: str, size_mb: int, datastore: Datastore) -> str:
        image = _Image(ident, f"empty_{ident}", size_mb, datastore, disk_format=disk_format, kind=2)
        return self._action(self._image(image), datastore.document())

    def clone(self, ident: int, original: str, disk_format: str, size_mb: int, datastore: Datastore) -> str:
        image = _Image(ident, f"clone_{ident}", size_mb, datastore, path=original, disk_format=disk_format,
                       cloned_from=ident - 1)  # fmt: skip
        return self._action(self._image(image), datastore.document())

    def rm(self, ident: int, source: str, disk_format: str, size_mb: int, datastore: Datastore) -> str:
        image = _Image(ident, f"image_{ident}", size_mb, datastore, source=source, disk_format=disk_format, state=1)
        return self._action(self._image(image), datastore.document())

    def stat(self, path: str, datastore: Datastore) -> str:
        size = _element("SIZE") if self._version >= (7,) else ""
        return self._action(_element("IMAGE", _element("PATH", escape(path)), size), datastore.document())

    def monitor(self, datastore: Datastore) -> str:
        return self._action(datastore.document())

    @staticmethod
    def _action(*documents: str) -> str:
        return _element("DS_DRIVER_ACTION_DATA", *documents)

    def _image(self, image: _Image) -> str:
        since = self._version
        formats = [_text("FORMAT", image.disk_format), _text("FS")]
        return _element(
            "IMAGE",
            _owned_by_oneadmin(image.ident, image.name),
            _permissions("OWNER_U OWNER_M"),
            _element("TYPE", image.kind),
            _element("DISK_TYPE", 0),
            _element("PERSISTENT", 0),
            _element("REGTIME", _NOW),
            *([_element("MODTIME", _NOW)] if since >= (7,) else []),
            _text("SOURCE", image.source),
            _text("PATH", image.path),
            *(formats if since >= (6,) else [_text("FSTYPE", image.disk_format)]),
            _element("SIZE", image.size_mb),
            _element("STATE", image.state),
            *([_element("PREV_STATE", 0 if image.state == 4 else image.state)] if since >= (6,) else []),
            _element("RUNNING_VMS", 0),
            _element("CLONING_OPS", 0),
            _element("CLONING_ID", image.cloned_from),
            _element("TARGET_SNAPSHOT", -1),
            _element("DATASTORE_ID", image.datastore.ident),
            _element("DATASTORE", f"images_{image.datastore.ident}"),
            _idents("VMS"),
            _idents("CLONES"),
            _idents("APP_CLONES"),
            _element("TEMPLATE", _text("DEV_PREFIX", "vd"), *(_text(*pair) for pair in image.attributes.items())),
            _element("SNAPSHOTS", _text("ALLOW_ORPHANS", "NO"), _text("CURRENT_BASE", -1), _text("NEXT_SNAPSHOT", 0)),
            *([_element("BACKUP_INCREMENTS")] if since >= (6, 6) else []),
            *([_idents("BACKUP_DISK_IDS")] if since >= (6, 10) else []),
        )
