"""A front-end whose oned, a mock, knows the vCenter of the tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.front_end import Answer, FrontEnd, messages
from rig.messages import Datastore
from rig.oned import MockedOned, mocked_oned
from rig.vcenter import SimulatedDatastore, SimulatedVCenter

DRIVER = "oneconvert_vcenter"
NUMBER = 100
"""Of the first datastore of the vCenter, in OpenNebula."""


@dataclass(frozen=True)
class Driver:
    """Calls oneconvert_vcenter, or another driver, as oned does."""

    front_end: FrontEnd
    vcenter: SimulatedVCenter
    oned: MockedOned
    environment: dict[str, str]

    def attributes(self, datastore: SimulatedDatastore | None = None, **more: str) -> dict[str, str]:
        """What OpenNebula's importer writes."""
        return {
            "VCENTER_HOST": self.vcenter.host,
            "VCENTER_INSTANCE_ID": self.vcenter.instance_uuid,
            "VCENTER_DS_REF": (datastore or self.vcenter.datastore).ref,
            "VCENTER_DC_REF": self.vcenter.datacenter_ref,
            "TM_MAD": "vcenter",
            **more,
        }

    def datastore(self, datastore: SimulatedDatastore | None = None, **more: str) -> Datastore:
        return self.front_end.datastore("vcenter", DRIVER, attributes=self.attributes(datastore, **more))

    def knows_image(self, ident: int, datastore: int) -> None:
        """oned has an image in a datastore."""
        self.oned.images[ident] = {"NAME": f"image_{ident}", "DATASTORE_ID": datastore}

    def knows_datastore(self, ident: int, attributes: dict[str, str]) -> None:
        """oned has a datastore."""
        self.oned.datastores[ident] = {"NAME": f"datastore_{ident}", "TEMPLATE": attributes}

    def call(self, action: str, document: str, driver: str = DRIVER, release: str = "7.4", **more: Any) -> Answer:
        return self.front_end.call(action, document, driver, release=release, **{**self.environment, **more})

    def cp(self, path: str, ident: int, store: Datastore | None = None, size: int = 24, **more: Any) -> Answer:
        store = store or self.datastore()
        self.knows_image(ident, store.ident)
        return self.call("cp", messages().cp(ident, path, size, store, attributes=more), store.ds_mad)

    def files(self, datastore: SimulatedDatastore | None = None) -> list[str]:
        """Everything in a datastore of the vCenter."""
        root = (datastore or self.vcenter.datastore).directory
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@contextmanager
def driver(front_end: FrontEnd, vcenter: SimulatedVCenter, directory: Path) -> Iterator[Driver]:
    """With TLS verified by the authority of the vCenter's certificate, and the password of an OpenNebula host.

    The datastores of the vCenter are empty.
    """
    for datastore in vcenter.datastores:
        for path in datastore.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with mocked_oned(directory) as (oned, environment), front_end.settings(vcenter_ca_file=vcenter.ca_file):
        made = Driver(front_end, vcenter, oned, environment)
        oned.hosts[3] = {
            "VCENTER_INSTANCE_ID": vcenter.instance_uuid,
            "VCENTER_HOST": vcenter.host,
            "VCENTER_PORT": str(vcenter.port),
            "VCENTER_USER": vcenter.user,
            "VCENTER_PASSWORD": vcenter.password,
        }
        made.knows_datastore(NUMBER, made.attributes())
        yield made
