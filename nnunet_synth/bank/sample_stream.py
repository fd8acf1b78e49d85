"""The stream of samples that a bank is filled from: one generator or several, and what each sample is asked to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from nnunet_synth.bank.filters import Filters
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.snapshot import MaskSource, PairGenerator, SampleRequest


@dataclass(frozen=True)
class Member:
    """One generator of an ensemble, and the masks that it draws images for."""

    generator: PairGenerator
    weight: float
    masks: MaskSource | None = None


@dataclass(frozen=True)
class Judged:
    """A sample.

    Attributes:
        number: in its stream.
        image: `[C, *spatial]`; of one that may enter, clipped to the range of real ones.
        label: `[*spatial]`.
        refused_by: the filter that refuses it, if any.
        clipped: voxels that were.
    """

    number: int
    image: np.ndarray
    label: np.ndarray
    refused_by: str | None
    clipped: int = 0


@dataclass(frozen=True)
class Stream:
    """Sample `number` depends on the members, the seed and the number alone.

    Attributes:
        members: who draws; one is chosen for each sample, by weight.
        seed: of the stream.
        balanced: whether each class is asked for equally often, and not as often as training patches show it.
    """

    members: Sequence[Member]
    seed: int
    balanced: bool = False

    def judged(self, first: int, filters: Filters, chunk: int) -> Iterator[Judged]:
        """Samples from number `first` on, without an end; `chunk` of them are drawn at once.

        Chunks begin at the same numbers whatever `first` is, so that what is computed together stays the same.
        """
        for start in count(first - first % chunk, chunk):
            numbers = range(start, start + chunk)
            samples = self.draw(numbers)
            verdicts = filters.first_refusal(samples)
            entering = filters.corrected(samples).image
            clipped = (entering != samples.image).reshape(len(samples), -1).sum(axis=1)
            for index, number in enumerate(numbers):
                refused_by = verdicts[index]
                image = samples.image[index] if refused_by else entering[index]
                count_clipped = 0 if refused_by else int(clipped[index])
                if number >= first:
                    yield Judged(number, image, samples.label[index], refused_by, count_clipped)

    def draw(self, numbers: Sequence[int]) -> SampleSet:
        """The samples of these numbers, in their order."""
        groups: dict[tuple, list[int]] = {}
        for place, number in enumerate(numbers):
            member = self.member(number)
            groups.setdefault((member, self.asked(number, member)), []).append(place)
        parts, order = [], []
        for (member, classes), places in groups.items():
            chosen = self.members[member]
            wanted, request = [numbers[place] for place in places], SampleRequest(classes)
            parts.append(chosen.generator.sample_numbers(wanted, seed=self.seed, request=request, masks=chosen.masks))
            order += places
        return SampleSet.joined(parts).take(np.argsort(order))

    def member(self, number: int) -> int:
        """Which member draws a sample."""
        share = np.cumsum([member.weight for member in self.members])
        rng = np.random.default_rng([self.seed, RandomStream.ENSEMBLE, number])
        return int(np.searchsorted(share / share[-1], rng.random()))

    def asked(self, number: int, member: int) -> tuple[int, ...] | None:
        """The classes that a sample is asked to show; None where it is asked as the training patches are.

        Balanced: a class, each with the same chance, and the others that a training patch shows with it.
        """
        if not self.balanced:
            return None
        conditions = self.members[member].generator.plan.conditions
        table = conditions.table
        rng = np.random.default_rng([self.seed, RandomStream.BALANCE, number])
        seen = np.flatnonzero(table.shown.any(axis=0))
        if not len(seen):
            return None
        weights = table.weights * table.shown[:, rng.choice(seen)]
        row = rng.choice(len(weights), p=weights / weights.sum())
        return tuple(np.array(conditions.classes)[table.shown[row]].tolist())
