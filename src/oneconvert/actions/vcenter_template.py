"""An image in a vCenter becomes something to instantiate: an empty template there, and a VM template that refers to it.

OpenNebula's guide has people do this by hand: make the template, import it, attach the image.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from oneconvert.actions.vcenter_choices import (
    FIRMWARE,
    GUEST,
    Dialogue,
    choose_cluster,
    choose_offered,
    choose_pool,
    find_guest,
)
from oneconvert.actions.vcenter_store import opened_datastore
from oneconvert.errors import OneconvertError, OptionError, VCenterError
from oneconvert.jobs.signals import interruptible
from oneconvert.opennebula.request import VCenterPlace
from oneconvert.opennebula.vcenter_access import place_of_datastore
from oneconvert.opennebula.vm_template import (
    ExistingVMTemplate,
    ImageFacts,
    VMTemplate,
    allocate,
    find_image,
    find_network,
    find_vm_template,
)
from oneconvert.settings import Settings
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.inventory import escaped_name, plain_name
from oneconvert.vcenter.placement import Cluster, find_folder
from oneconvert.vcenter.template import (
    LONGEST_NAME,
    Machine,
    NewTemplate,
    TemplateSpec,
    find_by_name,
    find_by_reference,
    mark_as_template,
)

DISKS = ("OS", "DATABLOCK", "CDROM")
GONE = ("ERROR", "DELETE")
USABLE = ("READY", "USED", "USED_PERS")


@dataclass(frozen=True)
class Wishes:
    """What the options say; None where one is not given. ``memory`` is in MiB."""

    image_id: int
    name: str | None
    guest: str | None
    firmware: str | None
    controller: str | None
    cluster: str | None
    pool: str | None
    folder: str
    network: str | None
    cpus: int
    memory: int
    dry_run: bool


@dataclass(frozen=True)
class Plan:
    """What to make. ``left`` is the template of an earlier call, when only the VM template is missing."""

    image: ImageFacts
    cluster: Cluster
    spec: TemplateSpec
    vm_template: VMTemplate
    missing_folders: tuple[str, ...]
    left: Machine | None


def make_vm_template(wishes: Wishes, settings: Settings, dialogue: Dialogue) -> int | None:
    """Make both templates, or find them, and return the id of the VM template; None when that was only tried.

    Whatever fails, or a signal, leaves nothing behind. Raises OptionError, OnedError, VCenterError, SettingsError.
    """
    with ExitStack() as stack:
        with interruptible():
            image = _usable_image(wishes.image_id, dialogue)
            name = _name(wishes, image)
            place = place_of_datastore(image.datastore_id)
            there = find_vm_template(name)
            datastore = stack.enter_context(opened_datastore(place, settings))
            _check_instance(datastore, place)
            if there:
                return _check_existing(datastore, there, image, place, name, wishes, dialogue)
            plan = _plan(datastore, wishes, image, name, place, dialogue)
        _describe(plan, datastore, dialogue, "would make" if wishes.dry_run else "making")
        return None if wishes.dry_run else _carry_out(plan, datastore, dialogue)


def _usable_image(image_id: int, dialogue: Dialogue) -> ImageFacts:
    image = find_image(image_id)
    if image.state in GONE:
        raise OptionError(f"image {image_id} is in state {image.state}; --image needs one that can be used")
    if image.type not in DISKS:
        raise OptionError(f"image {image_id} is of type {image.type}; --image needs a disk")
    if image.state not in USABLE:
        dialogue.tell(f"image {image_id} is in state {image.state}; virtual machines can have it when it is READY")
    return image


def _name(wishes: Wishes, image: ImageFacts) -> str:
    name = wishes.name or image.name
    if len(name) > LONGEST_NAME:
        raise OptionError(f"the name of image {image.id} is too long for a vCenter; --name takes one of {LONGEST_NAME}")
    return name


def _check_instance(datastore: Datastore, place: VCenterPlace) -> None:
    found = str(datastore.connection.content.about.instanceUuid)
    if found.lower() != place.instance_id.lower():
        raise VCenterError(
            f"{datastore.connection.server.name}: it is the vCenter {found}, but datastore {place.datastore_id} has "
            f"the VCENTER_INSTANCE_ID {place.instance_id}"
        )


def _marker(image: ImageFacts) -> str:
    """The line in the notes of a template that says whose it is.

    OpenNebula has no id of itself; two of them do not register an image of the same id in the same second.
    """
    return f"oneconvert: image {image.id} of datastore {image.datastore_id}, registered {image.registered}"


def _is_ours(machine: Machine, image: ImageFacts) -> bool:
    return _marker(image) in machine.annotation.splitlines()


def _check_existing(
    datastore: Datastore,
    there: ExistingVMTemplate,
    image: ImageFacts,
    place: VCenterPlace,
    name: str,
    wishes: Wishes,
    dialogue: Dialogue,
) -> int:
    """The id of the VM template of that name, if an earlier call made it."""
    same = image.id in there.image_ids and there.instance_id == place.instance_id and there.template_ref
    machine = find_by_reference(datastore.connection, there.template_ref) if same else None
    if same and machine is None:
        raise OptionError(
            f'VM template {there.id}, "{name}", refers to {there.template_ref}, which the vCenter does not have any '
            f"more; delete it (onetemplate delete {there.id}), or choose another --name"
        )
    if machine is None or not _is_ours(machine, image):
        raise OptionError(
            f'OpenNebula has a VM template {there.id} "{name}", which oneconvert did not make for image {image.id}; '
            "choose another --name"
        )
    dialogue.tell(f'VM template {there.id} "{name}" is there already, with {machine.reference} of the vCenter')
    _tell_differences(machine, wishes, dialogue)
    return there.id


def _tell_differences(machine: Machine, wishes: Wishes, dialogue: Dialogue) -> None:
    for what in ("guest", "firmware", "controller"):
        wanted, has = getattr(wishes, what), getattr(machine, what)
        if wanted and wanted != has:
            dialogue.tell(f"its {what} stays {has or 'another one'}; for {wanted}, choose another --name")


def _plan(
    datastore: Datastore, wishes: Wishes, image: ImageFacts, name: str, place: VCenterPlace, dialogue: Dialogue
) -> Plan:
    left = find_by_name(datastore, wishes.folder, name)
    # With disks it may be a copy, which has the notes of the template, too.
    if left and not (_is_ours(left, image) and (left.is_template or not left.has_disks)):
        raise OptionError(
            f'{datastore.connection.server.name}: there is a virtual machine "{name}" ({left.reference}), which '
            f"oneconvert did not make for image {image.id}; choose another --name or --folder"
        )
    cluster = choose_cluster(datastore, wishes.cluster, place, dialogue)
    pool = choose_pool(datastore, wishes.pool, cluster, dialogue)
    guest = find_guest(datastore, wishes.guest or GUEST, cluster)
    if left:
        _tell_differences(left, wishes, dialogue)
    network = None if wishes.network is None else find_network(wishes.network, place.instance_id)
    spec = TemplateSpec(
        name=name,
        annotation=f"{_marker(image)}\nEmpty on purpose: OpenNebula clones it, and attaches the disk.",
        guest=guest.id,
        firmware=choose_offered("firmware", wishes.firmware, guest, guest.firmwares, FIRMWARE),
        controller=choose_offered("controller", wishes.controller, guest, guest.controllers, ""),
        cpus=wishes.cpus,
        memory=wishes.memory,
        pool=pool.reference,
        host=cluster.host,
        folder=wishes.folder,
    )
    vm_template = VMTemplate(
        name=name,
        image_id=image.id,
        cpus=wishes.cpus,
        memory=wishes.memory,
        template_ref=left.reference if left else "",
        cluster_ref=cluster.reference,
        instance_id=place.instance_id,
        pool=pool.path,
        # As vSphere has the names: OpenNebula looks them up.
        folder="/".join(escaped_name(each) for each in wishes.folder.split("/") if each),
        network_id=network,
    )
    return Plan(image, cluster, spec, vm_template, find_folder(datastore, wishes.folder)[1], left)


def _describe(plan: Plan, datastore: Datastore, dialogue: Dialogue, verb: str) -> None:
    spec = plan.spec
    if plan.left:
        dialogue.tell(f'the vCenter has the template "{spec.name}" already ({plan.left.reference})')
    else:
        path = [plain_name(each) for each in plan.vm_template.folder.split("/") if each]
        for number in range(len(path) - len(plan.missing_folders), len(path)):
            dialogue.tell(f"{verb} the folder {'/'.join(path[: number + 1])}")
        dialogue.tell(
            f'{verb} the vCenter template "{spec.name}" in {"/".join(path) or "the folder of the datacenter"}, '
            f"files on [{datastore.name}], cluster {plan.cluster.name}: {spec.guest}, {spec.firmware}, "
            f"{spec.controller}, {spec.cpus} CPU, {spec.memory} MiB, no disks"
        )
    dialogue.tell(f"{verb} the VM template of OpenNebula:")
    for name, value in plan.vm_template.attributes():
        if not isinstance(value, str):
            value = "[" + ", ".join(f"{key}={text}" for key, text in value.items()) + "]"
        dialogue.tell(f"  {name} = {value or '(that of the vCenter template)'}")


def _carry_out(plan: Plan, datastore: Datastore, dialogue: Dialogue) -> int:
    """Make what is missing. Signals wait for a place where nothing they interrupt is lost."""
    if plan.left:
        if not plan.left.is_template:  # an earlier call was killed
            mark_as_template(datastore.connection, plan.left.reference)
        return allocate(plan.vm_template)
    new = NewTemplate(datastore, plan.spec)
    try:
        new.start()
        with interruptible():
            reference = new.finish()
        return allocate(replace(plan.vm_template, template_ref=reference))
    except BaseException:
        _undo(new, datastore, plan.spec.name, dialogue)
        raise


def _undo(new: NewTemplate, datastore: Datastore, name: str, dialogue: Dialogue) -> None:
    try:
        if new.undo():
            dialogue.tell("removed from the vCenter what was made")
    except OneconvertError as error:
        dialogue.tell(f'"{name}" may be left on [{datastore.name}]: {error.sentence}')
