"""The snapshots that fill a bank: found, opened, and refused if they were trained on other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_synth.bank.format import MaskScans, SnapshotReference
from nnunet_synth.bank.registered_masks import open_registered_masks
from nnunet_synth.bank.request import DEFORMED, GENERATED, REGISTERED, FillRequest
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, Source, Variant, run_folder
from stylegan2_cond.snapshot import CARD_FILE, Card, MaskSource, PairGenerator, find_best, load_generator, open_masks

# Attributes of `Source` that a snapshot shares with the bank that it fills, and what messages call them.
_SHARED = {
    "dataset_name": "dataset",
    "data_identifier": "preprocessed data",
    "fold": "fold",
    "preprocessing": "preprocessing",
    "training_cases": "list of training cases",
}


@dataclass(frozen=True)
class Member:
    """A generator of an ensemble, its weight, and the masks that it generates images for."""

    generator: PairGenerator
    weight: float
    masks: MaskSource | None = None


@dataclass(frozen=True)
class Ensemble:
    """The generators of a bank.

    Attributes:
        members: one or more.
        snapshots: a reference for each member.
        mask_snapshot: reference to the snapshot that generates masks, if any.
        mask_scans: scans with which masks are registered, if any.
    """

    members: tuple[Member, ...]
    snapshots: tuple[SnapshotReference, ...]
    mask_snapshot: SnapshotReference | None
    mask_scans: MaskScans | None

    @property
    def plan(self) -> Plan:
        """Plan of the first member; all have the same source and patch size."""
        return self.members[0].generator.plan


def open_ensemble(preprocessed: Preprocessed, fold_name: str, request: FillRequest, device: str) -> Ensemble:
    """Load every generator of a request, and the masks that images are generated for.

    Raises:
        UserError: a snapshot does not exist or has other data or another patch size, masks are not used, or there are
            no scans to register them with.
    """
    fold = preprocessed.fold(fold_name)
    scans = ScanBank.open(preprocessed, fold, request.with_bank) if request.with_bank else None
    source = Source.of(preprocessed, fold, scans)
    members, references, mask_snapshot, mask_scans = [], [], None, None
    for path, weight in request.snapshots or ((_best_snapshot(source, request.variant), 1.0),):
        generator = load_generator(path, device)
        _refuse_foreign(generator.plan, source, path)
        if members and generator.plan.patch_size != (first := members[0].generator.plan.patch_size):
            raise UserError(
                f"Snapshot {path} generates patches of {generator.plan.patch_size}, {references[0].path} of {first}. "
                f"Fill a bank of each."
            )
        if members and generator.plan.source.scans != members[0].generator.plan.source.scans:
            raise UserError(f"Snapshots {references[0].path} and {path} learnt from other scans. Fill a bank of each.")
        masks = None
        if generator.plan.given_mask and request.mask_kind == REGISTERED:
            masks, mask_scans = open_registered_masks(preprocessed, generator.plan, request.mask_bank)
        elif generator.plan.given_mask:
            text = str(_best_snapshot(source, "mask")) if request.masks == GENERATED else request.masks or DEFORMED
            masks = open_masks(text, generator.plan, device)
            if request.mask_kind == GENERATED:
                mask_snapshot = _reference(Path(text), Card.load(Path(text) / CARD_FILE))
        members.append(Member(generator, weight, masks))
        references.append(_reference(path, generator.card, weight))
    if request.masks and all(member.masks is None for member in members):
        raise UserError(f"--masks {request.masks}: no snapshot here is of the variant image. Remove --masks.")
    return Ensemble(tuple(members), tuple(references), mask_snapshot, mask_scans)


def _best_snapshot(source: Source, variant: Variant) -> Path:
    folder = run_folder(source, variant)
    if found := find_best(folder):
        return found
    raise UserError(
        f"No snapshot in {folder}. Train a generator first: {source.command('stylegan2-cond train', variant=variant)}"
    )


def _refuse_foreign(plan: Plan, source: Source, snapshot: Path) -> None:
    if plan.variant == "mask":
        raise UserError(
            f"Snapshot {snapshot} generates masks only. Choose a snapshot of the variant pair or image; for one of the "
            f"variant image, this one can generate the masks: --masks {snapshot}"
        )
    for key, title in _SHARED.items():
        if (theirs := getattr(plan.source, key)) != (here := getattr(source, key)):
            values = "" if key == "training_cases" else f" ({theirs} instead of {here})"
            raise UserError(
                f"Snapshot {snapshot} was trained on another {title}{values}. Train a generator here: stylegan2-cond "
                f"train {source.dataset_name} {source.configuration} {source.fold}"
            )


def _reference(path: Path, card: Card, weight: float = 1.0) -> SnapshotReference:
    return SnapshotReference(
        path=str(path.resolve()),
        weights_sha256=card.weights_sha256,
        images_seen=card.images_seen,
        variant=card.plan.variant,
        weight=weight,
    )
