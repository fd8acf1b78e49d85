"""`synthetic.json` of an exported dataset: which of its cases are synthetic, and where those come from."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from nnunet_synth.bank.provenance import BankProvenance
from nnunet_synth.export.intensities import Channel
from stylegan2_cond.io import Document

CARD_FILE = "synthetic.json"


class Wish(NamedTuple):
    """What decides the files of an export; it is gone on with by whoever wishes the same."""

    made_from: str
    record_sha256: str
    samples_per_case: int
    real: int
    links: bool


class DatasetCard(Document):
    """Written first, so that a stopped export is known again, and once more at the end.

    Attributes:
        dataset: of this folder.
        made_from: the dataset whose cases and plans these are.
        bank: where the samples come from.
        channels: how intensities were turned back.
        stored_as: type of the values in synthetic image files.
        spacing: of the voxels of synthetic images, in mm along the axes in which nnU-Net's reader gives them.
        samples_per_case: more than 1 where slices are stacked to volumes.
        synthetic: names of the synthetic cases.
        real, links: how many real cases lie beside them, and whether as links.
        clipped: per channel, the share of values that the files could not hold.
        changed: per channel, by how much the values that nnU-Net makes of the files differ from the bank's; root mean
            square, in normalised units.
        complete: everything is written.
    """

    remedy: ClassVar[str] = "Delete the dataset's folder and export it again: nnunet-synth export-dataset …"
    format_version: int = 3
    dataset: str
    made_from: str
    bank: BankProvenance
    channels: tuple[Channel, ...]
    stored_as: str
    spacing: tuple[float, ...]
    samples_per_case: int
    synthetic: tuple[str, ...]
    real: int
    links: bool
    clipped: tuple[float, ...] = ()
    changed: tuple[float, ...] = ()
    complete: bool = False
    release: str

    @property
    def wish(self) -> Wish:
        return Wish(self.made_from, self.bank.record_sha256, self.samples_per_case, self.real, self.links)
