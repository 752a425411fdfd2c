"""What a template is to be: what is wanted, of what a vCenter has; where that leaves a choice, somebody is asked."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol

from oneconvert.errors import OptionError, VCenterError
from oneconvert.opennebula.request import VCenterPlace
from oneconvert.opennebula.vcenter_access import imported_clusters
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.inventory import plain_name
from oneconvert.vcenter.placement import Cluster, Guest, Pool, clusters_of, guests_of, pools_of

GUEST, FIRMWARE, CONTROLLER = "otherGuest64", "bios", "lsilogic"
"""Where nothing is asked for; firmware and controller where the guest system can have them."""
NEAR = 8


class Dialogue(Protocol):
    """Whoever asked for the template."""

    def tell(self, line: str) -> None:
        """Something was done, or should be known."""

    def choose(self, what: str, option: str, choices: Sequence[str], default: int | None) -> int:
        """Which of several; the default, or OptionError where there is none, if nobody can be asked."""


def choose_cluster(datastore: Datastore, wanted: str | None, place: VCenterPlace, dialogue: Dialogue) -> Cluster:
    """The cluster that is wanted, else the only one that there is to choose. Raises OptionError, VCenterError."""
    clusters = clusters_of(datastore)
    if not clusters:
        raise VCenterError(
            f"{datastore.connection.server.name}: no connected host of a cluster can write to datastore "
            f"{datastore.name}"
        )
    imported = imported_clusters(place.instance_id)
    if wanted is not None:
        found = next((each for each in clusters if wanted in (each.name, each.reference)), None)
        if found is None:
            raise OptionError(
                f"no cluster {wanted} reaches datastore {datastore.name}; --cluster can be "
                + ", ".join(each.name for each in clusters)
            )
    else:
        # Virtual machines can be only where OpenNebula has a host.
        clusters = tuple(each for each in clusters if each.reference in imported) or clusters
        names = [each.name for each in clusters]
        found = clusters[0 if len(names) == 1 else dialogue.choose("cluster", "--cluster", names, None)]
    if found.reference not in imported:
        dialogue.tell(f"cluster {found.name} is no host of OpenNebula yet: import it, or no virtual machine can run")
    return found


def choose_pool(datastore: Datastore, wanted: str | None, cluster: Cluster, dialogue: Dialogue) -> Pool:
    """The resource pool that is wanted, else that of the cluster itself. Raises OptionError, VCenterError."""
    pools = pools_of(datastore.connection, cluster)
    paths = [plain_name(each.path) or "that of the cluster itself" for each in pools]
    if wanted is not None:
        for each in pools[1:]:
            if wanted in (plain_name(each.path), each.path, each.reference):
                return each
        raise OptionError(
            f"cluster {cluster.name} has no resource pool {wanted}; --pool can be "
            + (", ".join(paths[1:]) or "left out: it has no other than its own")
        )
    return pools[0 if len(pools) == 1 else dialogue.choose("resource pool", "--pool", paths, 0)]


def find_guest(datastore: Datastore, wanted: str, cluster: Cluster) -> Guest:
    """The guest system that is wanted; OptionError lists those that are near. Raises VCenterError."""
    guests = guests_of(datastore.connection, cluster, wanted)
    if wanted in guests:
        return guests[wanted]
    by_lower = {each.lower(): each for each in guests}
    near = [by_lower[each] for each in get_close_matches(wanted.lower(), by_lower, NEAR, 0.5)]
    near += [each for lower, each in by_lower.items() if wanted.lower() in lower and each not in near]
    raise OptionError(
        f"cluster {cluster.name} has no guest system {wanted}; --guest can be "
        + (f"{', '.join(near[:NEAR])} and others" if near else f"{GUEST} and others, ids as vSphere has them")
    )


def choose_offered(what: str, wanted: str | None, guest: Guest, offered: tuple[str, ...], usual: str) -> str:
    """What is wanted, else what is usual or recommended, of what the guest system can have. Raises OptionError."""
    if wanted is None:
        if usual in offered or not offered:
            return usual or CONTROLLER
        return offered[0]
    if offered and wanted not in offered:
        raise OptionError(f"guest system {guest.id} cannot have {what} {wanted}; --{what} can be {', '.join(offered)}")
    return wanted
