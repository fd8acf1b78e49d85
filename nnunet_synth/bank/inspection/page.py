"""`nnunet-synth inspect`: checks a bank's files against their checksums, and shows what is in it on one page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_synth.bank.filters import FILTERS
from nnunet_synth.bank.format import BankRecord, Generators, PseudoLabels, TrueLabels
from nnunet_synth.bank.inspection.figures import GENERATED, REAL, plot_distributions, spread_of
from nnunet_synth.bank.inspection.findings import Findings, find_out
from nnunet_synth.bank.inspection.gallery import gallery, legend, most_alike
from nnunet_synth.bank.inspection.scans import build_scan_page
from nnunet_synth.bank.inspection.statistics import TITLES
from nnunet_synth.bank.previews import refused_picture
from nnunet_synth.bank.resume import fill_command
from nnunet_synth.bank.verify import verify_files
from nnunet_synth.pages.formatting import NOTHING, count, file_size, number, percent, significant
from nnunet_synth.pages.page import Note, Page, Picture, Section, Table, render
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.metrics.memorization import ALARMS

PAGE_FILE = "inspection.html"
COMMAND = "nnunet-synth inspect"
SIGNATURE = f'<meta name="generator" content="{COMMAND}'  # near the start of each page that we wrote
HEAD_BYTES = 1000
MOST_SETS = 12  # of classes
REMARKABLE = 2.0  # standard errors by which more alarms than expected are too many
FAR = 0.2  # pooled standard deviations from which on a distribution is called far from the real one
MASKS = {
    "real": "real masks",
    "deformed": "deformed real masks",
    "blended": "blended real masks",
    "registered": "real masks deformed towards scans",
    "generated": "generated masks",
}


def inspect_bank(folder: Path, path: Path | None = None) -> tuple[Path, Page]:
    """Write a page that shows what is in a bank. It contains real patches, so it is as private as they are.

    Args:
        folder: of the bank, complete or not.
        path: of the page; `inspection.html` in the bank's folder, when None.

    Returns:
        Where the page is, and what it says.

    Raises:
        DamagedBank: files are missing, truncated or changed; no page is written.
        UserError: the folder is not a bank, or one of the dataset's own labels, or there is a file at `path` that is
            not such a page.
    """
    path = path or folder / PAGE_FILE
    _refuse_other_folder(folder)
    _refuse_other_file(path)
    record = BankRecord.load(folder / RECORD_FILE)
    file_bytes = verify_files(folder, record)
    if isinstance(record.origin, TrueLabels):
        raise UserError(
            f"{folder} is a benchmark's control: scans with the dataset's own labels. It has no page. All its files "
            f"match their SHA-256."
        )
    if isinstance(record.origin, PseudoLabels):
        page = build_scan_page(folder, record, file_bytes, f"{COMMAND} {version('nnunet-synth')}")
    else:
        page = build_page(find_out(folder, record, file_bytes))
    with write_atomically(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return path, page


def _refuse_other_folder(folder: Path) -> None:
    if (folder / RECORD_FILE).is_file():
        return
    banks = sorted(record.parent for record in folder.glob(f"**/{RECORD_FILE}"))
    hint = f"It contains banks, for example {banks[-1]}" if banks else (
        "Banks are in $nnUNet_preprocessed/DATASET/…_synth/fold_F/NAME; nnunet-synth bank prints the folder."
    )  # fmt: skip
    raise UserError(f"{folder} is not a bank: it has no {RECORD_FILE}. {hint}")


def _refuse_other_file(path: Path) -> None:
    """Only an older page may be replaced."""
    if path.is_dir():
        raise UserError(f"-o {path} is a folder. Name a file, for example -o {path / PAGE_FILE}")
    if path.exists():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES).decode("utf-8", errors="replace")
        except OSError:
            head = ""
        if SIGNATURE not in head:
            raise UserError(f"{path} exists and is not a page of this command. Choose another name with -o.")


def build_page(found: Findings) -> Page:
    """All that the page says."""
    record, release = found.record, version("nnunet-synth")
    private = " It contains patches of training cases and is as private as they are." if found.reference else ""
    return Page(
        title=f"Bank {record.name} · {record.source.dataset_name}",
        summary=_summary(found),
        sections=[*_gallery(found), *_distributions(found), *_filters(found), *_provenance(found)],
        written_by=f"{COMMAND} {release}",
        notes=list(_notes(found)),
        footer=f"Written {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC from {found.folder}.{private}",
    )


def _masks(origin: Generators) -> str:
    """What images were generated for, in words."""
    title, scans = MASKS.get(origin.masks, origin.masks), origin.mask_scans
    return f"{title} ({count(len(scans.scans), 'scan')} of the bank {scans.bank})" if scans else title


def _summary(found: Findings) -> str:
    record, source = found.record, found.record.source
    masks = f" for {_masks(record.origin)}" if record.origin.masks else ""
    return (
        f"{count(record.samples, 'synthetic pair')} of {' × '.join(map(str, record.origin.patch_size))} voxels, sampled"
        f"{masks} from {count(len(record.origin.snapshots), 'generator')} trained on "
        f"{source.describe_cases()} of {source.dataset_name}, configuration "
        f"{source.configuration}, fold {source.fold}."
    )


def _notes(found: Findings) -> Iterator[Note]:
    """What to know first."""
    record = found.record
    files = sum(len(shard.files) for shard in record.shards)
    text = f"{count(files, 'file')}, {file_size(found.file_bytes)}; all match their SHA-256 in {RECORD_FILE}."
    yield Note(text, "Files", "good") if files else Note("There are none yet.", "Files", "note")
    if record.complete:
        yield Note(f"All {count(record.requested, 'requested sample')} are there.", "Complete", "good")
    else:
        text = f"{record.samples:,} of {count(record.requested, 'requested sample')} are there; nnU-Net’s training "
        yield Note(f"{text}does not use the bank until the command below has filled it.", "Incomplete", "bad")
    refused = sum(filter_.refused for filter_ in record.filters.values())
    off = [f"{name} ({filter_.off})" for name, filter_ in record.filters.items() if filter_.off]
    share = f" ({percent(refused / record.generated)})" if record.generated else ""
    text = f"{refused:,} of {count(record.generated, 'generated sample')} refused{share}. "
    yield Note(f"{text}Off: {'; '.join(off) or 'none'}.", "Filters", "note" if off else "good")
    if found.neighbours:
        yield _copies(found)
        yield _furthest(found)
    else:
        yield Note(f"There are no real neighbours: {found.no_reference}", "Real cases", "note")
    if found.bank and found.bank.broken:
        yield Note(f"{count(found.bank.broken, 'inspected sample')} with values that are not finite.", "Values", "bad")


def _copies(found: Findings) -> Note:
    inspected = len(found.bank)
    if found.neighbours.threshold is None:
        return Note("Too few training cases to calibrate how similar real patches usually are.", "Copies", "note")
    alarms, expected = int(found.neighbours.alarms.sum()), ALARMS * inspected
    text = (
        f"{alarms} of {count(inspected, 'inspected sample')} are closer to one training case, compared with the next "
        f"ones, than {100 * (1 - ALARMS):g} % of real patches are. About {expected:.2g} are expected by chance."
    )
    too_many = alarms > expected + REMARKABLE * math.sqrt(max(expected, 1))
    return Note(text, "Copies", "bad" if too_many else "good")


def _furthest(found: Findings) -> Note:
    known = [one for one in found.measures if one.group not in ("nearest", "position") and not math.isnan(one.distance)]
    if not known:
        return Note("There is no class and no channel to compare.", "Distributions", "note")
    worst = max(known, key=lambda one: one.distance)
    typical, noise = np.median([one.distance for one in known]), np.nanmedian([one.noise for one in known])
    text = (
        f"Synthetic and real patches are {typical:.2f} standard deviations apart (median of {len(known)} measures), "
        f"two sets of real patches {noise:.2f}. Furthest: {TITLES[worst.group].split(',')[0].lower()} of {worst.of}, "
        f"{worst.distance:.2f}."
    )
    return Note(text, "Distributions", "note" if worst.distance > FAR else "good")


def _gallery(found: Findings) -> Iterator[Section]:
    if not found.bank:
        return
    pictures, near = gallery(found), found.neighbours
    text = f"{len(pictures)} of {found.record.samples:,} samples, spread evenly over the bank. "
    if near:
        text += "Below each, the training patch with the highest correlation r, shifted by a few voxels to match; "
        text += "plain grey is outside of the training image. "
        if (thinned := found.reference.cover.thinned) > 1:
            text += f"Neighbours were searched in one of {thinned} patches of the training cases. "
    if len(found.record.origin.patch_size) == 3:
        text += "Of each volume, the middle cuts across its three axes. "
    if len(found.channels) > 1:
        text += f"Channels: {', '.join(found.channels)}; the mask lies over the first one."
    yield Section("Gallery", text, legend(found), pictures)
    if near:
        kind = "with the highest r" if near.threshold is None else "closest to one case, compared with the next ones"
        text = f"Of {count(len(found.bank), 'inspected sample')}, those {kind}. “Copy?” marks samples that are closer "
        text += "than almost all real patches of different cases."
        yield Section("Most like a copy", text, legend(found), most_alike(found))


def _distributions(found: Findings) -> Iterator[Section]:
    if not found.bank:
        return
    sides = ["real", "synthetic"] if found.reference else ["synthetic"]
    text = f"{len(found.bank):,} samples. Measures of masks are over the patches that show the class."
    if found.reference:
        text += f" Real: {found.reference.count:,} patches of the training cases, cropped as for the generator’s "
        text += "training; validation cases are not used."
    if found.classes:
        rows = [
            (" + ".join(found.classes[label] for label in labels) or "no class", *map(percent, shares[1::-1]))
            for labels, shares in [*found.class_sets.items()][:MOST_SETS]
        ]
        note = "The bank is balanced: each class is requested equally often. " if found.record.origin.balanced else ""
        if found.reference:
            ours, real, again = zip(*found.class_sets.values(), strict=True)
            distance, noise = (abs(np.subtract(real, other)).sum() / 2 for other in (ours, again))
            note += f"{percent(distance)} of the patches differ; of two sets of real patches, {percent(noise)}."
        yield Section("Classes shown together", note, tables=[Table(("patches with", *sides), rows)])
    colours = [("real", REAL), ("synthetic", GENERATED)]
    yield Section("Distributions", text, colours[-len(sides) :], pictures=plot_distributions(found.measures))
    if found.reference:
        rows = [
            (TITLES[one.group], one.of, number(one.distance, 2), number(one.noise, 2), *map(spread_of, one.sides))
            for one in found.measures
        ]
        text = (
            "Wasserstein distance between real and synthetic patches in standard deviations of both together: 0 for "
            "equal distributions, 2 at most; “real again” is the distance between two sets of real patches. Median, "
            "and 5th to 95th percentile in brackets."
        )
        head = ("measure", "of", "distance", "real again", *sides)
        yield Section("Distances", text, tables=[Table(head, rows, words=2)])


def _filters(found: Findings) -> Iterator[Section]:
    record, rows, limits = found.record, [], []
    for name, filter_ in record.filters.items():
        says = f"a sample that {FILTERS[name].problem}" if name in FILTERS else ""
        share = percent(filter_.refused / record.generated) if record.generated else NOTHING
        refused = ("off", "") if filter_.off else (f"{filter_.refused:,}", share)
        rows.append((name, says + f" (off: {filter_.off})" * bool(filter_.off), *refused))
        limits += [(name, _name_limit(what, found), significant(value, 4)) for what, value in filter_.limits.items()]
    # names of filters in a record from elsewhere are not used as paths
    paths = {f"Refused by {name}": refused_picture(found.folder, name) for name in FILTERS if name in record.filters}
    pictures = [Picture("", path.read_bytes(), alt, alt, 1) for alt, path in paths.items() if path.is_file()]
    text = f"{record.generated:,} samples were generated, {record.samples:,} entered. A sample counts for the first "
    text += "filter that refuses it. Limits are learnt from the training cases"
    text += f", widened by {percent(record.origin.margin)} of their range." if record.origin.margin else "."
    head = ("filter", "refuses", "refused", "share")
    yield Section("Filters", text, pictures=pictures, tables=[Table(head, rows, words=2)])
    yield Section("Limits of the filters", tables=[Table(("filter", "limit", "value"), limits, 2)], folded=True)


def _name_limit(limit: str, found: Findings) -> str:
    """What a filter calls a limit, with names for the numbers of classes and channels."""
    names = {"class": found.classes, "channel": dict(enumerate(found.channels))}
    if (match := re.match(r"(class|channel) (\d+) ", limit)) and int(match[2]) in names[match[1]]:
        return f"{names[match[1]][int(match[2])]}: {limit[match.end() :]}"
    return limit


def _provenance(found: Findings) -> Iterator[Section]:
    record, source = found.record, found.record.source
    started = f"started {record.created[:16].replace('T', ' ')} UTC with nnunet-synth {record.release}"
    terms = [
        ("Filled", f"{started}, seed {record.origin.seed}"),
        ("Dataset", f"{source.dataset_name}, {source.configuration}, {source.plans_name}, fold {source.fold}"),
        ("Preprocessing", source.preprocessing),
        *([("Masks", _masks(record.origin))] if record.origin.masks else ()),
        ("Classes", "each requested equally often" if record.origin.balanced else "as in the training patches"),
    ]
    snapshots, mask_snapshot = record.origin.snapshots, record.origin.mask_snapshot
    total = sum(one.weight for one in snapshots)
    generators = [(f"Generator of {percent(one.weight / total)} of the samples", one) for one in snapshots]
    for title, one in (*generators, *([("Generator of masks", mask_snapshot)] if mask_snapshot else ())):
        seen = f"variant {one.variant}, {one.images_seen:,} images seen"
        terms.append((title, f"{seen}; {one.path}, weights {one.weights_sha256}"))
    yield Section("Provenance", terms=terms)
    yield Section("Command", "Fills this bank, or continues to, where its snapshots are.", code=fill_command(record))
    text = f"No model that trains with this bank may be validated on them: {', '.join(source.training_cases)}."
    yield Section(count(len(source.training_cases), "training case"), text, folded=True)
    if source.scans:
        text = f"The generators saw them too, as bank {source.scans.bank} has them: {', '.join(source.scans.cases)}."
        yield Section(count(len(source.scans.cases), "unlabelled scan"), text, folded=True)
    files = [item for shard in record.shards for item in shard.files.items()]
    yield Section(count(len(files), "file"), tables=[Table(("file", "SHA-256"), files, 2)], folded=True)
