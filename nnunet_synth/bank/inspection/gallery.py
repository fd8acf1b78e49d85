"""Cards of the gallery: a sample, and the training patch that it is most like, shifted so that they match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_synth.bank.inspection.findings import Findings
from nnunet_synth.bank.inspection.tiles import Tile, make_tile
from nnunet_synth.bank.inspection.two_sides import spread
from stylegan2_cond.metrics.ncc import align
from stylegan2_cond.metrics.report import beneath

SHOWN = {2: 32, 3: 16}  # samples of the gallery, by the number of axes
MOST_ALIKE = {2: 8, 3: 6}
WIDE = 1.5  # width over height, from which on two pictures stand one over the other


@dataclass(frozen=True)
class Neighbour:
    """The training patch that a sample is most like.

    Attributes:
        tile: its picture.
        place: case and slice.
        correlation: the largest over small shifts.
        alarm: whether the sample is taken for its copy.
        shows: the classes that it shows, and their areas.
    """

    tile: Tile
    place: str
    correlation: float
    alarm: bool
    shows: str


@dataclass(frozen=True)
class Card:
    """A sample.

    Attributes:
        tile: its picture.
        number: in the stream that the bank's seed names.
        place: the shard that holds it, and which slice of that.
        labels: of the classes that it shows.
        shows: the same in words, with their areas.
        neighbour: None where there are no real cases.
    """

    tile: Tile
    number: int
    place: str
    labels: tuple[int, ...]
    shows: str
    neighbour: Neighbour | None

    @property
    def wide(self) -> bool:
        return self.tile.width > WIDE * self.tile.height


def gallery(found: Findings) -> list[Card]:
    """Samples spread over the whole bank, always the same."""
    if found.drawn is None:
        return []
    return _cards(found, spread(len(found.drawn), SHOWN[len(found.record.patch_size)]))


def most_alike(found: Findings) -> list[Card]:
    """The samples that are most like copies, of all that were looked at."""
    if found.neighbours is None:
        return []
    return _cards(found, found.neighbours.worst(MOST_ALIKE[len(found.record.patch_size)]))


def _cards(found: Findings, chosen: Sequence[int]) -> list[Card]:
    return [_card(found, int(index)) for index in chosen]


def _card(found: Findings, index: int) -> Card:
    drawn = found.drawn
    image, label = drawn.samples.image[index], drawn.samples.label[index]
    shard, place = str(drawn.shards[index]), int(drawn.slices[index])
    return Card(
        tile=make_tile(image, label, found.look),
        number=int(drawn.numbers[index]),
        place=f"{shard}, slice {place + 1}" if label.ndim == 2 else shard,
        labels=tuple(one for one in found.classes if (label == one).any()),
        shows=_shows(label, found),
        neighbour=_neighbour(found, index) if found.neighbours else None,
    )


def _neighbour(found: Findings, index: int) -> Neighbour:
    near, reference = found.neighbours, found.real.reference
    partner = int(near.drawn.index[index])
    image = found.drawn.samples.image[index]
    corner = align(image, reference.image[partner])
    there, mask = beneath(reference.image[partner], reference.label[partner], corner, image.shape[1:])
    return Neighbour(
        tile=make_tile(there, mask, found.look),
        place=found.real.places[partner],
        correlation=float(near.drawn.nearness[index]),
        alarm=bool(near.alarms[index]),
        shows=_shows(mask, found),
    )


def _shows(label: np.ndarray, found: Findings) -> str:
    """`anterior 3.1 %, posterior 2 %`."""
    shares = {name: 100 * float((label == one).mean()) for one, name in found.classes.items()}
    return ", ".join(f"{name} {share:.2g} %" for name, share in shares.items() if share) or "no class"
