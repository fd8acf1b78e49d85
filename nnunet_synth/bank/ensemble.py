"""Which snapshots draw for a bank: found, opened, and refused where they learnt from other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_synth.bank.format import SnapshotReference
from nnunet_synth.bank.sample_stream import Member
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source, Variant, run_folder
from stylegan2_cond.snapshot import Card, MaskSource, PairGenerator, find_best, load_generator, open_masks

DEFORMED, REAL, DRAWN = "deformed", "real", "drawn"


@dataclass(frozen=True)
class Order:
    """Who shall draw, and what.

    Attributes:
        snapshots: folders, each perhaps with `=WEIGHT`; the best one of the fold's generator, when empty.
        variant: whose best snapshot that is.
        masks: what the variant `image` draws images for: `deformed` or `real` masks of the training cases, `drawn` by
            the fold's best mask snapshot, or the folder of a mask snapshot; `deformed`, when None.
        balanced: each class is asked for equally often.
    """

    snapshots: tuple[str, ...] = ()
    variant: Variant = "pair"
    masks: str | None = None
    balanced: bool = False

    @property
    def masks_word(self) -> str:
        """`deformed`, `real` or `drawn`."""
        masks = self.masks or DEFORMED
        return masks if masks in (DEFORMED, REAL) else DRAWN

    def bank_name(self, references: Sequence[SnapshotReference]) -> str:
        """What a bank is called that nobody named."""
        first = references[0]
        words = [f"ensemble_{len(references)}"] if len(references) > 1 else [first.variant]
        if self.masks_word != DEFORMED:
            words.append(self.masks_word)
        if self.balanced:
            words.append("balanced")
        thousands = max(one.images_seen for one in references) / 1000
        return "_".join([*words, f"{thousands:.0f}k" if thousands >= 100 else f"{thousands:.3g}k"])


def make_order(snapshots: Sequence[str], variant: str, masks: str | None, *, balanced: bool) -> Order:
    """An order out of what was typed.

    Raises:
        UserError: no such variant.
    """
    if variant not in ("pair", "image"):
        raise UserError(f"--variant {variant}: a bank holds images with their masks. Choose pair or image.")
    return Order(tuple(snapshots), variant, masks, balanced)


def open_members(
    preprocessed: Preprocessed, fold_name: str, order: Order, device: str
) -> tuple[list[Member], tuple[SnapshotReference, ...], SnapshotReference | None]:
    """Load every generator of an order, and the masks that images are drawn for.

    Returns:
        The members; a reference for each; and one for the mask snapshot, where there is one.

    Raises:
        UserError: no such snapshot, one of other data or of another patch, or masks that nobody wants.
    """
    source = Source.of(preprocessed, preprocessed.fold(fold_name))
    texts = order.snapshots or (str(best_snapshot(source, order.variant)),)
    members, references, mask_reference = [], [], None
    for text in texts:
        path, weight = _weighted(text)
        generator = load_generator(path, device)
        refuse_foreign(generator, source, path)
        masks = None
        if generator.plan.given_mask:
            masks, mask_reference = _masks(order, generator, source, device)
        members.append(Member(generator, weight, masks))
        references.append(_refer(path, generator.card, weight))
    if order.masks and mask_reference is None and all(member.masks is None for member in members):
        raise UserError(f"--masks {order.masks}: none of the snapshots draws images for masks. Leave it out.")
    for member, text in zip(members, texts, strict=True):
        if (patch_size := member.generator.plan.patch_size) != (first := members[0].generator.plan.patch_size):
            raise UserError(
                f"Snapshot {text} draws patches of {patch_size}, {texts[0]} of {first}. Fill a bank of each."
            )
    return members, tuple(references), mask_reference


def best_snapshot(source: Source, variant: Variant) -> Path:
    """The best snapshot of a fold's generator.

    Raises:
        UserError: there is none.
    """
    folder = run_folder(source, variant)
    if found := find_best(folder):
        return found
    option = "" if variant == "pair" else f" --variant {variant}"
    raise UserError(
        f"No snapshot in {folder}. Train a generator first: stylegan2-cond train {source.dataset_name} "
        f"{source.configuration} {source.fold}{option}"
    )


def refuse_foreign(generator: PairGenerator, source: Source, snapshot: Path) -> None:
    """A bank is filled for the data that its generator learnt from, nothing else.

    Raises:
        UserError: the generator learnt from anything else, or draws masks alone.
    """
    learnt = generator.plan.source
    if generator.plan.variant == "mask":
        raise UserError(
            f"Snapshot {snapshot} draws masks alone. Choose one of the variant pair or image; with the latter, masks "
            f"can be drawn by it: --masks {snapshot}"
        )
    for key, what in (
        ("dataset_name", "dataset"),
        ("data_identifier", "preprocessed data"),
        ("fold", "fold"),
        ("preprocessing", "preprocessing"),
        ("training_cases", "list of training cases"),
    ):
        if getattr(learnt, key) != getattr(source, key):
            values = "" if key == "training_cases" else f" ({getattr(learnt, key)}, here it is {getattr(source, key)})"
            raise UserError(
                f"Snapshot {snapshot} learnt from another {what}{values}. Train a generator here: stylegan2-cond "
                f"train {source.dataset_name} {source.configuration} {source.fold}"
            )


def _weighted(text: str) -> tuple[Path, float]:
    path, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--snapshot {text}: '{weight}' is no weight. Type for example --snapshot {path}=2")
    return Path(path), value


def _masks(
    order: Order, generator: PairGenerator, source: Source, device: str
) -> tuple[MaskSource, SnapshotReference | None]:
    text = order.masks or DEFORMED
    if order.masks_word != DRAWN:
        return open_masks(text, generator.plan, device), None
    path = best_snapshot(source, "mask") if text == DRAWN else Path(text)
    masks = open_masks(str(path), generator.plan, device)
    return masks, _refer(path, Card.load(path / "card.json"), 1.0)


def _refer(path: Path, card: Card, weight: float) -> SnapshotReference:
    return SnapshotReference(
        path=str(path.resolve()),
        weights_sha256=card.weights_sha256,
        images_seen=card.images_seen,
        variant=card.plan.variant,
        weight=weight,
    )
