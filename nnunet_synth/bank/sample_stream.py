"""The stream of samples that fills a bank, from one generator or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from nnunet_synth.bank.ensemble import Member
from nnunet_synth.bank.filters import Filters
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.snapshot import SampleRequest


@dataclass(frozen=True)
class ScreenedSample:
    """A sample that all filters have seen.

    Attributes:
        number: in its stream.
        image: `[C, *spatial]`, as filters have corrected it unless it is refused.
        label: `[*spatial]`.
        refused_by: name of the first filter that refuses it; None if it may enter.
        corrected_by: names of the filters that have changed it.
    """

    number: int
    image: np.ndarray
    label: np.ndarray
    refused_by: str | None
    corrected_by: tuple[str, ...]


@dataclass(frozen=True)
class SampleStream:
    """Samples by number; each depends only on the members, the seed and its number.

    Attributes:
        members: generators; one is chosen at random for each sample, in proportion to the weights.
        seed: of the stream.
        balanced: request each class equally often, instead of as often as the training patches show it.
    """

    members: Sequence[Member]
    seed: int
    balanced: bool = False

    def screened(self, first: int, filters: Filters, chunk: int) -> Iterator[ScreenedSample]:
        """Endless samples from number `first` on, generated `chunk` at a time.

        Chunks start at multiples of `chunk`, so that the same samples are computed together wherever filling resumes.
        """
        for start in count(first - first % chunk, chunk):
            samples = self.sample(range(start, start + chunk))
            corrected, refused_by, corrected_by = filters.screen(samples)
            for index in range(max(0, first - start), chunk):
                refused = refused_by[index]
                image = (samples if refused else corrected).image[index]
                changes = () if refused else tuple(corrected_by[index])
                yield ScreenedSample(start + index, image, samples.label[index], refused, changes)

    def sample(self, numbers: Sequence[int]) -> SampleSet:
        """The samples with these numbers, in this order."""
        groups: dict[tuple, list[int]] = {}
        for place, number in enumerate(numbers):
            member = self.choose_member(number)
            groups.setdefault((member, self.choose_classes(number, member)), []).append(place)
        parts, order = [], []
        for (chosen, classes), places in groups.items():
            member, of_member = self.members[chosen], [numbers[place] for place in places]
            parts.append(
                member.generator.sample_numbers(
                    of_member, seed=self.seed, request=SampleRequest(classes), masks=member.masks
                )
            )
            order += places
        return SampleSet.joined(parts).take(np.argsort(order))

    def choose_member(self, number: int) -> int:
        """Index of the member that generates a sample."""
        share = np.cumsum([member.weight for member in self.members])
        rng = np.random.default_rng([self.seed, RandomStream.ENSEMBLE, number])
        return int(np.searchsorted(share / share[-1], rng.random()))

    def choose_classes(self, number: int, member: int) -> tuple[int, ...] | None:
        """Classes requested of a sample; None to leave them to the conditions of the training patches.

        Balanced: one class, each with the same probability, with the others of a random training patch that shows it.
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
