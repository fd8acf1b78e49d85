"""Findings in the form that the page's template shows them in."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nnunet_synth.bank.filters import FILTERS, NOT_WANTED
from nnunet_synth.bank.inspection.facts import headline, list_facts
from nnunet_synth.bank.inspection.figures import plot_distribution
from nnunet_synth.bank.inspection.findings import Findings
from nnunet_synth.bank.inspection.gallery import Card, gallery, most_alike
from nnunet_synth.bank.inspection.naming import TITLES, legend, name_limit, name_set, percent
from nnunet_synth.bank.inspection.statistics import GROUPS, Measure
from nnunet_synth.bank.inspection.tiles import picture_of
from nnunet_synth.bank.previews import refused_picture

TEMPLATE = "page.html.j2"
MOST_PLOTS = 12  # of one group
MOST_SETS = 12  # of classes
FULL_BAR = 1.0  # pooled standard deviations that fill a bar of the table


@dataclass(frozen=True)
class Plot:
    """A distribution, and what stands above it."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Group:
    """Plots of one measure for several classes or channels; `left_out` are the others, which differ less."""

    title: str
    plots: Sequence[Plot]
    left_out: int


@dataclass(frozen=True)
class Row:
    """A line of the table of distances; `width` and `mark` are shares of its bar."""

    of: str
    real: str
    drawn: str
    distance: str
    noise: str
    width: float
    mark: float | None


def render(found: Findings) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=PackageLoader("nnunet_synth.bank.inspection", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    cards = gallery(found)
    return environment.get_template(TEMPLATE).render(
        found=found,
        record=found.record,
        headline=headline(found),
        facts=list_facts(found),
        legend=legend(found.classes, found.look),
        cards=cards,
        choices=_choices(found, cards),
        alike=most_alike(found),
        presence=_presence_rows(found),
        groups=_groups(found),
        tables=_tables(found),
        filters=_filter_rows(found),
        refused=_refused(found),
        snapshots=_snapshots(found),
        command=command(found),
        now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        release=version("nnunet-synth"),
    )


def _choices(found: Findings, cards: Sequence[Card]) -> list[tuple[int, str]]:
    """Classes that some cards of the gallery show and others do not."""
    counts = {label: sum(label in card.labels for card in cards) for label in found.classes}
    return [(label, found.classes[label]) for label, count in counts.items() if 0 < count < len(cards)][:MOST_SETS]


def _presence_rows(found: Findings) -> list[tuple[str, float, float | None]]:
    """Set of classes, share of the samples, share of the real patches."""
    if found.presence is None or not found.classes:
        return []
    sets, drawn = found.presence.sets[:MOST_SETS], found.presence.drawn
    real = found.presence.real or [None] * len(found.presence.sets)
    return [(name_set(one, found.classes), *shares) for one, *shares in zip(sets, drawn, real, strict=False)]


def _groups(found: Findings) -> list[Group]:
    groups = []
    for name in GROUPS:
        told = [one for one in found.measures if one.group == name]
        furthest = sorted(told, key=lambda one: -np.nan_to_num(one.distance))[:MOST_PLOTS]
        plots = [_plot(one, f"{name.replace(' ', '-')}{number}") for number, one in enumerate(told) if one in furthest]
        if plots:
            groups.append(Group(TITLES[name], plots, len(told) - len(plots)))
    return groups


def _plot(measure: Measure, name: str) -> Plot:
    what = f"{TITLES[measure.group]}: {measure.of}."
    sides = [("Synthetic", measure.drawn), ("real", measure.real)]
    told = "; ".join(f"{side} {_spread(values)}" for side, values in sides if values is not None)
    return Plot(measure.of, plot_distribution(measure, name, f"{what} {told}. Median and 5th to 95th percentile."))


def _tables(found: Findings) -> list[tuple[str, list[Row]]]:
    """A table for each group."""
    if found.real is None:
        return []
    tables = [(TITLES[name], [_row(m) for m in found.measures if m.group == name]) for name in GROUPS]
    return [(title, rows) for title, rows in tables if rows]


def _row(measure: Measure) -> Row:
    distance, noise = measure.distance, measure.noise
    return Row(
        of=measure.of,
        real=_spread(measure.real),
        drawn=_spread(measure.drawn),
        distance=_figure(distance),
        noise=_figure(noise),
        width=0.0 if math.isnan(distance) else min(1.0, distance / FULL_BAR),
        mark=None if math.isnan(noise) else min(1.0, noise / FULL_BAR),
    )


def _spread(values: np.ndarray) -> str:
    """Median, 5th and 95th percentile."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "–"
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"{middle:.3g} ({low:.3g}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.3g})".replace("-", "−")


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _filter_rows(found: Findings) -> list[dict]:
    drawn = found.record.drawn
    return [
        {
            "name": name,
            "says": FILTERS[name].says if name in FILTERS else "",
            "off": filter_.off,
            "refused": filter_.refused,
            "share": filter_.refused / drawn if drawn else 0.0,
            "limits": [
                (name_limit(what, found.classes, found.channels), _number(value))
                for what, value in filter_.limits.items()
            ],
        }
        for name, filter_ in found.record.filters.items()
    ]


def _refused(found: Findings) -> list[tuple[str, str]]:
    """Filters, and the pictures of what they refused. A record may be anyone's, so its names are no paths."""
    paths = {name: refused_picture(found.folder, name) for name in FILTERS if name in found.record.filters}
    return [(name, picture_of(path)) for name, path in paths.items() if path.is_file()]


def _snapshots(found: Findings) -> list[dict]:
    record = found.record
    references = [("generator", one) for one in record.snapshots]
    references += [("masks", record.mask_snapshot)] if record.mask_snapshot else []
    total = sum(one.weight for one in record.snapshots)
    return [
        {"role": role, "reference": one, "share": one.weight / total if role == "generator" else 1.0}
        for role, one in references
    ]


def command(found: Findings) -> str:
    """What fills this bank, or goes on with it, where its snapshots are."""
    record, source = found.record, found.record.source
    words = ["nnunet-synth", "bank", source.dataset_name, source.configuration, source.fold]
    words += ["-n", str(record.requested)]
    for one in record.snapshots:
        weight = f"={one.weight:g}" if len(record.snapshots) > 1 else ""
        words += ["--snapshot", one.path + weight]
    if record.masks:
        drawn_by = record.mask_snapshot.path if record.mask_snapshot else record.masks
        words += ["--masks", drawn_by]
    words += ["--balanced"] * record.balanced
    for name, filter_ in record.filters.items():
        words += ["--without", name] if filter_.off == NOT_WANTED else []
    words += ["--margin", f"{record.margin:g}", "--name", record.name, "--seed", str(record.seed)]
    words += ["-p", source.plans_name] if source.plans_name != "nnUNetPlans" else []
    return shlex.join(words)
