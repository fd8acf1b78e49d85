"""What a bank is to hold: the request that `nnunet-synth bank` passes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nnunet_synth.bank import MARGIN
from nnunet_synth.bank.format import SnapshotReference
from stylegan2_cond import MaskVariation
from stylegan2_cond.errors import UserError

DEFORMED, GENERATED, REGISTERED = "deformed", "generated", "registered"


@dataclass(frozen=True)
class FillRequest:
    """What a bank is to hold.

    Attributes:
        samples: number of samples.
        snapshots: folders of snapshots, each with its weight in the ensemble; if empty, the best snapshot of the fold.
        variant: of that best snapshot.
        with_bank: name of the bank whose scans that snapshot's generator learnt from; None for labelled cases alone.
        masks: for snapshots of the variant `image`: `deformed`, `blended` or `real` masks of the training cases,
            `registered` with the fold's newest bank of scans, or `registered:NAME` with another one; `generated` by the
            fold's best mask snapshot, or the folder of a mask snapshot; None for `deformed`.
        balanced: request each class equally often, instead of as often as the training patches show it.
        name: of the bank; None for one that names the variant and the images that the generator saw.
        seed: of the samples.
        without: filters to turn off; `all` stands for each of them.
        margin: tolerance of each filter, as a fraction of the real range.
        nnunet: folder of the trained nnU-Net for the filter `fit`; None for the newest of the fold.
    """

    samples: int
    snapshots: tuple[tuple[Path, float], ...] = ()
    variant: Literal["pair", "image"] = "pair"
    with_bank: str | None = None
    masks: str | None = None
    balanced: bool = False
    name: str | None = None
    seed: int = 0
    without: tuple[str, ...] = ()
    margin: float = MARGIN
    nnunet: Path | None = None

    @property
    def mask_kind(self) -> str:
        """`deformed`, `blended`, `real`, `registered` or `generated`."""
        masks = self.masks or DEFORMED
        if masks.partition(":")[0] == REGISTERED:
            return REGISTERED
        return masks if masks in get_args(MaskVariation) else GENERATED

    @property
    def mask_bank(self) -> str | None:
        """Name of the bank of scans with which masks are registered; None for the newest."""
        return (self.masks or "").partition(":")[2] or None

    def default_name(self, snapshots: Sequence[SnapshotReference], scans: str | None = None) -> str:
        """Name of the bank, for example `pair_200k`, `pair_with_pseudo_80k` or `ensemble_2_generated_balanced_80k`.

        Args:
            snapshots: that fill the bank.
            scans: name of the bank that their generators learnt from; None if they saw labelled cases alone.
        """
        words = [f"ensemble_{len(snapshots)}"] if len(snapshots) > 1 else [snapshots[0].variant]
        words += [f"with_{scans}"] if scans else []
        if self.mask_kind != DEFORMED:
            words.append(self.mask_kind)
        if self.balanced:
            words.append("balanced")
        thousands = max(snapshot.images_seen for snapshot in snapshots) / 1000
        return "_".join([*words, f"{thousands:.0f}k" if thousands >= 100 else f"{thousands:.3g}k"])


def parse_snapshot(text: str) -> tuple[Path, float]:
    """`"PATH"` → `(PATH, 1.0)`; `"PATH=2"` → `(PATH, 2.0)`.

    Raises:
        UserError: the weight is not a positive number.
    """
    path, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--snapshot {text}: the weight '{weight}' must be > 0. Type for example --snapshot {path}=2")
    return Path(path), value
