"""The stream of samples that fills a bank, from one generator or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

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
        image: `[C, *spatial]`, as filters have corrected it unless it is refused; C is 0 where the mask was given and
            refused, so that no image was generated for it.
        label: `[*spatial]`.
        refused_by: name of the first filter that refuses it; None if it may enter.
        corrected_by: names of the filters that have changed it.
    """

    number: int
    image: np.ndarray
    label: np.ndarray
    refused_by: str | None
    corrected_by: tuple[str, ...]


class GivenMask(NamedTuple):
    """A mask that an image is to be generated for.

    Attributes:
        label: `[*spatial]`, as the generator is given it.
        position: of a slice in its volume, from 0 to 1.
        shown: `[*spatial]`, the label of the sample: without voxels to be ignored.
    """

    label: np.ndarray
    position: float
    shown: np.ndarray


@dataclass(frozen=True)
class _SampledMasks:
    """A `MaskSource` of masks that have been sampled."""

    given: Mapping[int, GivenMask]

    def sample(
        self, seed: int, numbers: Sequence[int], request: SampleRequest = SampleRequest()
    ) -> tuple[np.ndarray, np.ndarray]:
        label, position, _ = zip(*(self.given[number] for number in numbers), strict=True)
        return np.stack(label), np.array(position, np.float32)


def _refused_masks(given: Mapping[int, GivenMask], filters: Filters) -> dict[int, ScreenedSample]:
    """The samples, without images, whose masks a filter refuses."""
    if not given:
        return {}
    refused_by = filters.screen_masks(np.stack([mask.shown for mask in given.values()]))
    return {
        number: ScreenedSample(number, np.empty((0, *mask.shown.shape), np.float32), mask.shown, refused, ())
        for (number, mask), refused in zip(given.items(), refused_by, strict=True)
        if refused
    }


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
        Given masks are screened first: no image is generated for one that is refused.
        """
        for start in count(first - first % chunk, chunk):
            numbers = range(start, start + chunk)
            given = self.given_masks(numbers)
            screened = _refused_masks(given, filters)
            if left := [number for number in numbers if number not in screened]:
                samples = self.sample(left, given)
                corrected, refused_by, corrected_by = filters.screen(samples)
                for index, number in enumerate(left):
                    refused = refused_by[index]
                    image = (samples if refused else corrected).image[index]
                    changes = () if refused else tuple(corrected_by[index])
                    screened[number] = ScreenedSample(number, image, samples.label[index], refused, changes)
            yield from (screened[number] for number in numbers if number >= first)

    def sample(self, numbers: Sequence[int], given: Mapping[int, GivenMask] | None = None) -> SampleSet:
        """The samples with these numbers, in this order; `given` are their masks, if `given_masks` has sampled them."""
        masks = _SampledMasks(self.given_masks(numbers) if given is None else given)
        parts, order = [], []
        for (chosen, classes), of_member in self._groups(numbers).items():
            member = self.members[chosen]
            parts.append(
                member.generator.sample_numbers(
                    of_member, seed=self.seed, request=SampleRequest(classes), masks=member.masks and masks
                )
            )
            order += of_member
        return SampleSet.joined(parts).take(np.array([order.index(number) for number in numbers]))

    def given_masks(self, numbers: Sequence[int]) -> dict[int, GivenMask]:
        """The masks that images are generated for, by number, of the samples whose generator has given masks."""
        given = {}
        for (chosen, classes), of_member in self._groups(numbers).items():
            member = self.members[chosen]
            if member.masks is None:
                continue
            codec = member.generator.plan.codec
            label, position = member.masks.sample(self.seed, of_member, SampleRequest(classes))
            shown = codec.decode_label(codec.encode_label(torch.from_numpy(label))).numpy()
            given |= dict(zip(of_member, map(GivenMask, label, position, shown), strict=True))
        return given

    def _groups(self, numbers: Sequence[int]) -> dict[tuple[int, tuple[int, ...] | None], list[int]]:
        """The numbers of samples by their generators and the classes that are requested of them."""
        groups: dict[tuple[int, tuple[int, ...] | None], list[int]] = {}
        for number in numbers:
            member = self.choose_member(number)
            groups.setdefault((member, self.choose_classes(number, member)), []).append(number)
        return groups

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
