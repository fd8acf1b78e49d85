"""The page about a bank of pseudo-labelled scans: how sure the teachers were, and what they were least sure of."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.pages.formatting import count, file_size, listing, number
from nnunet_synth.pages.page import Note, Page, Picture, Section, Table
from nnunet_synth.pages.plotting import COLOURS, STYLE, png_of
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset, LabelledScan
from stylegan2_cond.visualization import overlay_grid

SHOWN = 16  # least certain scans
BINS = np.linspace(0, 1, 41)
RANGE = (0.005, 0.995)  # quantiles of a channel that are shown as black and white


def build_scan_page(folder: Path, record: BankRecord, file_bytes: int, written_by: str) -> Page:
    """All that the page says."""
    source, origin = record.source, record.origin
    entered = [scan for scan in origin.scans if not scan.refused]
    return Page(
        title=f"Bank {record.name} · {source.dataset_name}",
        summary=f"{count(len(entered), 'unlabelled scan')} with labels by {count(len(origin.teachers), 'nnU-Net')} "
        f"trained on {count(len(source.training_cases), 'labelled case')} of {source.dataset_name}, configuration "
        f"{source.configuration}, fold {source.fold}.",
        sections=[
            Section(
                "Least certain scans",
                "Of the scans that entered, those of which a class has the lowest confidence, least certain first, "
                "each by the slice with most foreground: every channel, and the first one with the labels.",
                pictures=[*_least_certain(folder, record, entered)],
            ),
            *_confidence(record),
            *_refused(record),
            _provenance(record),
        ],
        written_by=written_by,
        notes=[*_notes(record, file_bytes)],
        footer=f"Written {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC from {folder}. It contains slices of scans, "
        f"and is as private as they are.",
    )


def _notes(record: BankRecord, file_bytes: int) -> Iterator[Note]:
    files = sum(len(shard.files) for shard in record.shards)
    yield Note(f"{count(files, 'file')}, {file_size(file_bytes)}; all match their SHA-256.", "Files", "good")
    done = len(record.origin.scans)
    if done < record.requested:
        text = f"{done:,} of {count(record.requested, 'scan')} are labelled; the command that began it continues."
        yield Note(text, "Incomplete", "bad")
    refused, off = done - record.samples, [name for name, one in record.filters.items() if one.off]
    text = f"{refused:,} of {count(done, 'scan')} refused. Off: {', '.join(off) or 'none'}."
    yield Note(text, "Filters", "note" if off else "good")
    if held := record.origin.evaluation_scans:
        text = f"{count(len(held), 'scan')} are validation or test cases (--transductive): {', '.join(held)}."
        yield Note(text, "Transductive", "bad")


def _least_certain(folder: Path, record: BankRecord, entered: list[LabelledScan]) -> Iterator[Picture]:
    bank = BankDataset(str(folder))
    order = sorted(zip(entered, record.shards, strict=True), key=lambda pair: _least(pair[0]))
    for scan, shard in order[:SHOWN]:
        image, label, _, _ = bank.load_case(shard.name)
        mask = label[0]
        plane = int((mask > 0).sum(axis=(1, 2)).argmax())
        image, mask = image[:, plane], mask[plane]
        low, high = np.quantile(image.reshape(len(image), -1), RANGE, axis=1)
        labels = sorted(set(np.unique(mask).tolist()) - {0, -1})
        grid = overlay_grid(image[None], mask[None], low=low, high=high, labels=labels)
        buffer = io.BytesIO()
        imsave(buffer, grid, format="png")
        sure = ", ".join(f"{name} {number(value, 2)}" for name, value in scan.confidence.items()) or "no class"
        alt, caption = f"Scan {scan.name}: {sure}", f"{scan.name}\n{sure}"
        yield Picture(f"scan-{shard.name}", buffer.getvalue(), alt, caption, zoom=1)


def _least(scan: LabelledScan) -> float:
    return min(scan.confidence.values(), default=0.0)


def _confidence(record: BankRecord) -> Iterator[Section]:
    """Histograms of each class: scans that entered, and those that were refused."""
    scans = [scan for scan in record.origin.scans if scan.confidence]
    names = list(dict.fromkeys(name for scan in scans for name in scan.confidence))
    if not names:
        return
    unseen, limits = record.origin.unseen_cases, record.filters["confidence"].limits
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False}):
        figure = Figure(figsize=(3 * min(3, len(names)), 1.6 * -(-len(names) // 3) + 0.2), layout="constrained")
        axes = figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False).flatten()
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(axes, names, strict=False):
            shown = [scan for scan in scans if name in scan.confidence]
            sides = [[scan.confidence[name] for scan in shown if bool(scan.refused) == out] for out in (False, True)]
            axis.hist(sides, BINS, stacked=True, color=COLOURS[:2])
            if name in limits:
                axis.axvline(limits[name], color="black", linewidth=0.8)
            axis.set_title(name, fontsize=9)
            axis.set_yticks([])
        png = png_of(figure)
    text = (
        "The mean probability of a class where it was predicted, times the Dice between the mean prediction and that "
    )
    text += "of each teacher alone and without mirroring."
    if limits:
        learnt = f", learnt from {count(len(unseen), 'labelled case')} that teachers had not seen" if unseen else ""
        least = ", ".join(f"{name} {number(limit, 2)}" for name, limit in limits.items())
        text += f" A scan with less is refused: {least}{learnt}."
    alt = "; ".join(f"{name}: median {number(_median(scans, name), 2)}" for name in names)
    legend = [("entered", COLOURS[0]), ("refused", COLOURS[1])]
    yield Section("Confidence", text, legend=legend, pictures=[Picture("confidence", png, f"Confidence. {alt}")])


def _median(scans: list[LabelledScan], name: str) -> float:
    return float(np.median([scan.confidence[name] for scan in scans if name in scan.confidence]))


def _refused(record: BankRecord) -> Iterator[Section]:
    rows = [(scan.name, scan.refused) for scan in record.origin.scans if scan.refused]
    rows += [(scan.name, f"ignored: {', '.join(scan.ignored)}") for scan in record.origin.scans if scan.ignored]
    if rows:
        yield Section("Refused scans and ignored classes", tables=[Table(("Scan", "Why"), rows, words=2)], folded=True)


def _provenance(record: BankRecord) -> Section:
    source, origin = record.source, record.origin
    terms = [("Filled", f"{record.created}, release {record.release}, round {origin.round}")]
    terms += [
        ("Teacher", f"{one.path}, configuration {one.configuration}, fold {one.fold or source.fold}, {one.sha256}")
        for one in origin.teachers
    ]
    terms += [("Trained with", listing(one.banks)) for one in origin.teachers if one.banks]
    terms.append(("Labelled cases", ", ".join(source.training_cases)))
    return Section("Provenance", f"Names and SHA-256 of all scans are in {RECORD_FILE}.", terms=terms)
