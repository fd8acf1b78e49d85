"""What a reader should know first: each fact a sentence, and whether it is good."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_synth.bank.inspection.findings import Findings
from nnunet_synth.bank.inspection.naming import TITLES, counted, percent, size_of
from stylegan2_cond.metrics.memorization import ALARMS

REMARKABLE = 2.0  # standard errors by which more alarms than expected are too many
FAR = 0.2  # pooled standard deviations from which on a distribution is called far from the real one


@dataclass(frozen=True)
class Fact:
    """One sentence, or a few; `good`, `note` or `bad`."""

    state: Literal["good", "note", "bad"]
    title: str
    text: str


def headline(found: Findings) -> str:
    """What the bank holds, from what."""
    record, source = found.record, found.record.source
    patch_size = " × ".join(map(str, record.patch_size))
    generators = f"{len(record.snapshots)} generators" if len(record.snapshots) > 1 else "a generator"
    masks = {"real": "for real masks", "deformed": "for deformed real masks", "drawn": "for drawn masks"}
    given = f" {masks.get(record.masks, '')}" if record.masks else ""
    return (
        f"{counted(record.samples, 'synthetic pair')} of {patch_size} voxels, drawn{given} by {generators} that learnt "
        f"from {counted(len(source.training_cases), 'training case')} of {source.dataset_name}, configuration "
        f"{source.configuration}, fold {source.fold}."
    )


def list_facts(found: Findings) -> list[Fact]:
    """In the order in which they matter."""
    facts = [_files(found), _completeness(found), _filters(found)]
    facts += [_copies(found), _distributions(found)] if found.real else [_no_real(found)]
    if found.drawn and found.drawn.broken:
        text = f"{counted(found.drawn.broken, 'sample')} looked at hold values that are no numbers; they are left out."
        facts.append(Fact("bad", "Values", text))
    return facts


def _files(found: Findings) -> Fact:
    count = sum(len(shard.files) for shard in found.record.shards)
    text = f"{counted(count, 'file')}, {size_of(found.file_bytes)}: each has the SHA-256 that bank.json gives it."
    return Fact("good", "Files", text) if count else Fact("note", "Files", "There are none yet.")


def _completeness(found: Findings) -> Fact:
    record = found.record
    if record.complete:
        return Fact("good", "Complete", f"All {counted(record.requested, 'sample')} that were asked for are there.")
    text = (
        f"{record.samples:,} of {counted(record.requested, 'sample')} are there. The command at the end of this page "
        f"goes on; until then nnU-Net’s training does not use the bank."
    )
    return Fact("bad", "Not complete", text)


def _filters(found: Findings) -> Fact:
    record = found.record
    refused = sum(filter_.refused for filter_ in record.filters.values())
    off = [f"{name} ({filter_.off})" for name, filter_ in record.filters.items() if filter_.off]
    share = f" ({percent(refused / record.drawn)})" if record.drawn else ""
    text = f"They refused {refused:,} of {counted(record.drawn, 'drawn sample')}{share}. "
    text += f"Off: {'; '.join(off)}." if off else "None was off."
    return Fact("note" if off else "good", "Filters", text)


def _copies(found: Findings) -> Fact:
    near, looked_at = found.neighbours, len(found.drawn)
    if near.threshold is None:
        return Fact("note", "Copies", "There are too few training cases to know how alike real patches usually are.")
    alarms, expected = int(near.alarms.sum()), ALARMS * looked_at
    text = (
        f"{alarms} of {counted(looked_at, 'sample')} looked at are nearer to one training case than to the next ones "
        f"by more than {100 * (1 - ALARMS):g} % of real patches are. Of new patches, about {expected:.2g} would be."
    )
    too_many = alarms > expected + REMARKABLE * math.sqrt(max(expected, 1))
    return Fact("bad" if too_many else "good", "Copies", text)


def _distributions(found: Findings) -> Fact:
    told = [one for one in found.measures if one.group not in ("nearest", "position") and not math.isnan(one.distance)]
    if not told:
        return Fact("note", "Distributions", "There is no class and no channel to compare.")
    worst = max(told, key=lambda one: one.distance)
    typical, noise = np.median([one.distance for one in told]), np.nanmedian([one.noise for one in told])
    text = (
        f"Synthetic and real ones are {typical:.2f} standard deviations apart, the median of {len(told)} measures; two "
        f"draws of real ones {noise:.2f}. Furthest: {TITLES[worst.group].split(',')[0].lower()} of {worst.of}, "
        f"{worst.distance:.2f}."
    )
    return Fact("note" if worst.distance > FAR else "good", "Distributions", text)


def _no_real(found: Findings) -> Fact:
    if not found.drawn:
        return Fact("note", "Real cases", "There is no sample to hold against them.")
    return Fact("note", "Real cases", f"The page has samples alone, without real neighbours: {found.no_real}")
