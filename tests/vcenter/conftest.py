"""A vCenter that the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.vcenter import SimulatedVCenter, simulated_vcenter


@pytest.fixture(scope="session")
def _running(simulator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedVCenter]:
    with simulated_vcenter(
        tmp_path_factory.mktemp("vcenter"), datastores=("datastore1", "disques d'été 100%"), folder="Europe & Asie"
    ) as vcenter:
        yield vcenter


@pytest.fixture
def vcenter(_running: SimulatedVCenter) -> Iterator[SimulatedVCenter]:
    """A vCenter where nothing goes wrong yet, and of which nothing was asked. Two datastores, in a folder."""
    _running.forget()
    yield _running
    _running.heal()
