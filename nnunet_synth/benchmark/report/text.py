"""What a report says besides its numbers: what they cannot say, and how they were computed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.benchmark.protocol import Effect
from nnunet_synth.pages.formatting import count, points

QUICK = (
    "This was a quick benchmark: a narrower nnU-Net, trained for a fraction of the usual time. It does not show "
    "whether synthetic pairs help a full one. Use it to decide for or against a full benchmark of the best arm."
)


def methods() -> list[tuple[str, str]]:
    """Terms of the report and how their numbers were computed: `methods.txt`, two lines each."""
    text = resources.files(__package__).joinpath("methods.txt").read_text(encoding="utf-8")
    return [tuple(part.split("\n", 1)) for part in text.strip().split("\n\n")]


def notes(analysis: Analysis) -> Iterator[str]:
    """What to know before believing the verdict."""
    benchmark = analysis.benchmark
    for arm in benchmark.arms:
        runs = benchmark.runs[benchmark.runs["arm"] == arm.name]
        if not (runs["state"] == "done").any():
            yield f"“{arm.title}” has no run: {next(filter(None, runs['error']), 'it was not started')}"
    if benchmark.design.quick:
        yield QUICK
    if missing := int((benchmark.runs["state"] != "done").sum()):
        yield f"{missing} of {len(benchmark.runs)} runs are not done; they are listed below."
    yield from benchmark.design.notes()
    yield from _stopping(analysis)
    for size, noise in analysis.noise.items():
        if noise.dof:
            yield (
                f"With {count(size, 'training case')}, runs of nnU-Net alone with the same training set have a "
                f"standard deviation of {points(noise.deviation, sign=False)} points."
            )
    cases, subjects = len(benchmark.design.test_cases), int(benchmark.subjects.max()) + 1
    if subjects < cases:
        yield f"The {cases} test cases come from {subjects} subjects, over which cases are averaged first."


def _stopping(analysis: Analysis) -> Iterator[str]:
    """What the stopping rule says: which arms go on, up to which look."""
    design = analysis.benchmark.design
    for size in design.sizes:
        rows = [analysis.row(analysis.benchmark.arms[index].name, size) for index in analysis.benchmark.treatments]
        undecided = [row for row in rows if row["effect"] == Effect.NO_EVIDENCE.value]
        look = design.protocol.next_look(design.looked)
        if undecided and look:
            option = f" (--training-sets {look})" if look > design.sets_of(size) else ""
            yield (
                f"{count(len(undecided), 'arm')} with {count(size, 'training case')} may be decided by more training "
                f"sets: the next look is at {look}{option}."
            )
        elif undecided:
            yield "Absence of evidence is not evidence of absence: the intervals show which effects remain possible."
