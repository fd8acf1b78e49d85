"""How good pseudo-labels are, and whether confidence tells: compares banks of a dataset's own cases with its labels.

    python studies/pseudo_labels/measure.py BANK [BANK …] -o FOLDER

The first bank was filled with `--without all`, so that it holds every scan; the others are compared with it. Dice is
that of preprocessed cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from nnunet_synth.bank.format import BankRecord, UnseenCase
from nnunet_synth.benchmark.scoring import write_rows
from nnunet_synth.pages.plotting import COLOURS, INK, STYLE, png_of
from nnunet_synth.pseudo_labels.calibration import learn_limits
from nnunet_synth.pseudo_labels.confidence import TargetClass, dice, target_classes
from nnunet_synth.pseudo_labels.request import DEFAULT_LEAST
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset

SHARES = (0.05, 0.1, 0.25, 0.5)  # of the scans, refused by a limit
LABELLED, DRAWS = (5, 8, 16), 200  # scans that limits are learnt from; random choices of them
COLUMNS = ("bank", "scan", "class", "confidence", "dice")


def score_bank(folder: Path, record: BankRecord, preprocessed: Preprocessed) -> list[dict]:
    """One row, as `COLUMNS`, for each scan that entered and each class that its labels or the true ones show.

    The confidence is NaN for a class that the labels do not show.
    """
    bank, rows = BankDataset(str(folder)), []
    entered = [scan for scan in record.origin.scans if not scan.refused]
    for scan, shard in zip(entered, record.shards, strict=True):
        label = np.asarray(bank.load_case(shard.name)[1][0])
        truth = np.asarray(preprocessed.load(scan.name).label[0])
        for one in target_classes(preprocessed.label_manager):
            masks = one.mask(label), one.mask(truth)
            if masks[0].any() or masks[1].any():
                values = one.name, scan.confidence.get(one.name, np.nan), dice(*masks)
                rows.append(dict(zip(COLUMNS, (record.name, scan.name, *values), strict=True)))
    return rows


def by_scan(rows: Sequence[dict]) -> dict[str, tuple[float, float]]:
    """Lowest confidence and mean Dice of the classes of each scan, by its name."""
    names = dict.fromkeys(row["scan"] for row in rows)
    groups = {name: [row for row in rows if row["scan"] == name] for name in names}
    return {
        name: (np.nanmin([1.0, *(row["confidence"] for row in group)]), float(np.mean([row["dice"] for row in group])))
        for name, group in groups.items()
    }


def describe_classes(rows: Sequence[dict]) -> Iterator[str]:
    """A table: the Dice of each class, and how well confidence ranks it."""
    yield "| class | scans | mean Dice | median confidence | rank correlation |\n| --- | ---: | ---: | ---: | ---: |"
    for name in dict.fromkeys(row["class"] for row in rows):
        sure, true = np.array([(row["confidence"], row["dice"]) for row in rows if row["class"] == name]).T
        rank = spearmanr(sure, true, nan_policy="omit").statistic
        yield f"| {name} | {len(true)} | {100 * true.mean():.1f} | {np.nanmedian(sure):.2f} | {rank:.2f} |"


def percent(values: Iterable[float]) -> str:
    """The mean of the fractions that are numbers; empty if there are none."""
    numbers = [value for value in values if not np.isnan(value)]
    return f"{100 * np.mean(numbers):.1f}" if numbers else ""


def describe_limits(scans: dict[str, tuple[float, float]]) -> Iterator[str]:
    """A table: what limits of the confidence keep, beside a choice by the true Dice."""
    sure, true = np.array(list(scans.values())).T
    yield (
        "| limit | refused | Dice of all | of those kept | of those refused | of as many, chosen by true Dice |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for limit in sorted({DEFAULT_LEAST, *np.quantile(sure, SHARES)}):
        keep = sure >= limit
        ideal = np.sort(true)[len(true) - keep.sum() :]
        means = " | ".join(map(percent, (true, true[keep], true[~keep], ideal)))
        yield f"| {limit:.3f} | {(~keep).sum()} of {len(true)} | {means} |"
    rank = spearmanr(sure, true).statistic
    yield f"\nRank correlation of the lowest confidence and the mean Dice of a scan: {rank:.2f}."


def describe_learnt(rows: Sequence[dict], classes: Sequence[TargetClass]) -> Iterator[str]:
    """A table: limits learnt from a few scans, as if they were labelled cases that no teacher had seen.

    Means over random choices of these scans; the limits are applied to the others.
    """
    scans, random = by_scan(rows), np.random.default_rng(0)
    sure: dict[str, dict[str, float]] = {name: {} for name in scans}
    for row in rows:
        if not np.isnan(row["confidence"]):
            sure[row["scan"]][row["class"]] = row["confidence"]
    cases = [UnseenCase(name=name, confidence=sure[name], dice={}) for name in scans]
    names = " | ".join(one.name for one in classes)
    yield f"| learnt from | {names} | refused | Dice of those kept | of those refused |"
    yield f"| --- |{' ---: |' * (3 + len(classes))}"
    for count in LABELLED:
        found = []
        for _ in range(DRAWS if count < len(cases) else 0):
            order = random.permutation(len(cases))
            limits = learn_limits([cases[place] for place in order[:count]], classes, DEFAULT_LEAST)
            others = [cases[place] for place in order[count:]]
            out = np.array([any(one < limits[key] for key, one in case.confidence.items()) for case in others])
            true = np.array([scans[case.name][1] for case in others])
            means = (part.mean() if part.size else np.nan for part in (true[~out], true[out]))
            found.append((*limits.values(), out.mean(), *means))
        if found:
            *limits, refused, kept, dropped = zip(*found, strict=True)
            least = " | ".join(f"{np.mean(limit):.2f}" for limit in limits)
            yield f"| {count} scans | {least} | {percent(refused)} % | {percent(kept)} | {percent(dropped)} |"


def describe_banks(banks: Sequence[tuple[BankRecord, dict[str, tuple[float, float]]]]) -> Iterator[str]:
    """A table: each bank's scans, what its filters refused, and the Dice of the scans that are in all banks."""
    first, common = banks[0][0].name, set.intersection(*(set(scans) for _, scans in banks))
    yield (
        f"| bank | round | scans | refused | their Dice in {first} | Dice of the {len(common)} scans in all banks |\n"
        f"| --- | ---: | ---: | --- | ---: | ---: |"
    )
    for record, scans in banks:
        refused = [banks[0][1][name][1] for name in banks[0][1].keys() - scans.keys()]
        filters = ", ".join(f"{name} {one.refused}" for name, one in record.filters.items() if not one.off)
        dices = f"{percent(refused)} | {percent(scans[name][1] for name in common)}"
        yield f"| {record.name} | {record.origin.round} | {len(scans)} | {filters or 'off'} | {dices} |"


def plot(rows: Sequence[dict]) -> bytes:
    """Confidence against Dice, one panel for each class, with the default limit."""
    names = list(dict.fromkeys(row["class"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            own = [row for row in rows if row["class"] == name]
            axis.plot(
                [row["confidence"] for row in own], [row["dice"] for row in own], "o", ms=3, alpha=0.6, c=COLOURS[0]
            )
            axis.axvline(DEFAULT_LEAST, color=INK, linewidth=0.8)
            axis.set(title=name, xlabel="confidence", ylabel="Dice", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        return png_of(figure)


def main() -> None:
    """Write `scans.csv`, `report.md` and `confidence.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("banks", nargs="+", type=Path, metavar="BANK")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    rows, banks = [], []
    for folder in options.banks:
        record = BankRecord.load(folder / RECORD_FILE)
        source = record.source
        preprocessed = open_preprocessed(source.dataset_name, source.configuration, source.plans_name)
        rows.append(score_bank(folder, record, preprocessed))
        banks.append((record, by_scan(rows[-1])))
    learnt = describe_learnt(rows[0], target_classes(preprocessed.label_manager))
    lines = [*describe_classes(rows[0]), "", *describe_limits(banks[0][1]), "", *learnt, "", *describe_banks(banks)]
    options.output.mkdir(parents=True, exist_ok=True)
    short = [row | {key: f"{row[key]:.4f}" for key in ("confidence", "dice")} for part in rows for row in part]
    write_rows(options.output / "scans.csv", COLUMNS, short)
    (options.output / "report.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (options.output / "confidence.png").write_bytes(plot(rows[0]))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
