"""stylegan2-cond: parses, calls, prints."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from stylegan2_cond import Variant
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.memory import keep_freed_memory

OF_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EROFS, errno.EPERM)
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="4 or Dataset004_Hippocampus", show_default=False)]
Configuration = Annotated[str, typer.Argument(metavar="CONFIGURATION", help="e.g. 2d", show_default=False)]
FoldName = Annotated[str, typer.Argument(metavar="FOLD", help="0 to 4, or all", show_default=False)]
Plans = Annotated[str, typer.Option("-p", "--plans", metavar="PLANS", help="nnU-Net plans")]
Device = Annotated[
    str, typer.Option("--device", metavar="D", help="cpu, cuda, cuda:1 …; cuda where there is one", show_default=False)
]


VariantName = Annotated[Variant, typer.Option(metavar="V", help="pair, mask, or image for given masks")]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory-gb", metavar="G", help="to fit into; what is free if not given", show_default=False, min=0.01, max=1e6
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="a key of the plan; repeatable", show_default=False),
]
Kimg = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="thousands of images to train on; by the data if not given",
        min=0.001,
        max=1e6,
        show_default=False,
    ),
]
PatchSize = Annotated[
    str | None, typer.Option(metavar="H,W", help="size to draw, instead of the derived one", show_default=False)
]
Seed = Annotated[
    int | None, typer.Option(metavar="S", help="of all randomness; 0 if not given", min=0, show_default=False)
]


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nnunet-synth {version('nnunet-synth')}, nnunetv2 {version('nnunetv2')}, torch {version('torch')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="tell the release", is_eager=True, callback=_tell_version)]


@app.callback()
def _commands(version: Version = False) -> None:
    """Learn from one nnU-Net fold to draw new images with their masks."""


@app.command(
    short_help="Derive how to train, with reasons.",
    epilog="Example: stylegan2-cond plan 4 2d 0 --memory-gb 4 --set batch_size=8",
)
def plan(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    plans: Plans = "nnUNetPlans",
    variant: VariantName = "pair",
    kimg: Kimg = None,
    patch_size: PatchSize = None,
    seed: Seed = None,
    memory_gb: Memory = None,
    settings: Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="make the plan anew, before training has begun")
    ] = False,
    device: Device = "",
) -> None:
    """Derive how to train, with reasons, try one real step, and write plan.json, which train then follows."""
    import shutil

    from stylegan2_cond.planning import RunOptions, parse_overrides
    from stylegan2_cond.planning.table import table
    from stylegan2_cond.training.run_setup import describe_costs, plan_run

    options = RunOptions(
        dataset=dataset,
        configuration=configuration,
        fold=fold,
        plans=plans,
        variant=variant,
        patch_size=parse_sizes(patch_size),
        kimg=kimg,
        seed=seed,
        device=device or default_device(),
        memory_gb=memory_gb,
        overrides=parse_overrides(settings or []),
    )
    found = plan_run(options, overwrite=overwrite)
    print(table(found.plan, min(140, shutil.get_terminal_size((120, 40)).columns)))
    print(f"\n{describe_costs(found, options.device)}\n{'Written to' if found.is_new else 'Read from'} {found.path}")


@app.command(short_help="Train a generator on a fold.", epilog="Example: stylegan2-cond train 4 2d 0 --kimg 50")
def train(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    plans: Plans = "nnUNetPlans",
    variant: VariantName = "pair",
    kimg: Kimg = None,
    patch_size: PatchSize = None,
    seed: Seed = None,
    memory_gb: Memory = None,
    settings: Settings = None,
    device: Device = "",
) -> None:
    """Train a generator on the training cases of a fold; after a stop, the same command goes on."""
    from stylegan2_cond.planning import RunOptions, parse_overrides
    from stylegan2_cond.snapshot import BEST, find_snapshots
    from stylegan2_cond.training.quality import describe_figures, snapshot_figures, verdict
    from stylegan2_cond.training.train import train as run

    options = RunOptions(
        dataset=dataset,
        configuration=configuration,
        fold=fold,
        plans=plans,
        variant=variant,
        patch_size=parse_sizes(patch_size),
        kimg=kimg,
        seed=seed,
        device=device or default_device(),
        memory_gb=memory_gb,
        overrides=parse_overrides(settings or []),
    )
    folder = run(options)
    if not (snapshots := find_snapshots(folder)):
        print("Training has seen more images than --kimg asks for, and has no snapshot yet. Raise --kimg to continue.")
        return
    print(f"Snapshot: {snapshots[-1]}")
    if (best := folder / BEST).exists():
        figures = snapshot_figures(best)
        print(f"Best: {best}", describe_figures(figures), *filter(None, [verdict(figures)]), sep="\n  ")
    print(f"Previews: {folder / 'previews'}")


@app.command(
    short_help="Draw samples as NIfTI files.",
    epilog="Example: stylegan2-cond generate …/best -n 100 -o drawn --with-class 2",
)
def generate(
    snapshot: Annotated[Path, typer.Argument(metavar="SNAPSHOT", help="folder with card.json", show_default=False)],
    samples: Annotated[int, typer.Option("-n", metavar="N", help="samples to draw", min=1, show_default=False)],
    folder: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="for images, labels, preview, list", show_default=False)
    ],
    seed: Annotated[int, typer.Option(metavar="S", help="of the samples", min=0)] = 0,
    truncation: Annotated[float, typer.Option(metavar="T", help="below 1: more typical, less varied", min=0)] = 1.0,
    with_class: Annotated[
        list[int] | None,
        typer.Option(metavar="L", help="show this class, no other; repeatable", show_default=False),
    ] = None,
    position: Annotated[
        float | None,
        typer.Option(metavar="P", help="of slices in their volume, from 0 to 1", show_default=False),
    ] = None,
    area: Annotated[
        list[str] | None,
        typer.Option(metavar="L=SHARE", help="of the patch, for a class; repeatable", show_default=False),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="images' masks: deformed if not given, real, or a snapshot", show_default=False
        ),
    ] = None,
    device: Device = "",
) -> None:
    """Draw samples as NIfTI files, in nnU-Net's normalised units; after a stop, the same command goes on."""
    from stylegan2_cond.sampling import generate as run
    from stylegan2_cond.sampling import summary
    from stylegan2_cond.snapshot import SampleRequest

    with stop_on_sigterm():
        record = run(
            snapshot,
            folder,
            samples=samples,
            seed=seed,
            truncation=truncation,
            request=SampleRequest(with_class or None, position, parse_areas(area or [])),
            masks=masks,
            device=device or default_device(),
        )
    print(summary(record, folder))


@app.command(short_help="Judge a snapshot.", epilog="Example: stylegan2-cond evaluate …/fold_0/snapshots/000200000")
def evaluate(
    snapshot: Annotated[Path, typer.Argument(metavar="SNAPSHOT", help="folder with card.json", show_default=False)],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="e.g. kid; repeatable; the default ones if not given", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("-n", metavar="N", help="samples to draw; 2000, in 3-D 300", min=20, show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="of the samples", min=0)] = 0,
    features: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="nnunet, random, or e.g. inception-v3-compat", show_default=False),
    ] = None,
    nnunet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="trained nnU-Net; the newest of the fold if not given", show_default=False),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="judge by validation cases too; then never choose by them")
    ] = False,
    device: Device = "",
) -> None:
    """Judge a snapshot: how real, how varied, how well masks fit, and whether training cases were copied."""
    from stylegan2_cond.metrics.evaluate import EVALUATION_FILE, PICTURE_FILE
    from stylegan2_cond.metrics.evaluate import evaluate as run
    from stylegan2_cond.metrics.report import table

    found = run(
        snapshot,
        metrics=metric or None,
        samples=samples,
        seed=seed,
        features=features,
        nnunet=nnunet,
        held_out=held_out,
        device=device or default_device(),
    )
    print(table(found))
    print(f"{found.seconds:.0f} s, {found.peak_bytes / 2**30:.1f} GiB at most. {snapshot / EVALUATION_FILE}")
    if found.worst:
        print(f"Samples and their nearest real neighbours: {snapshot / PICTURE_FILE}")


@app.command(short_help="Measure the speed on this machine.", epilog="Example: stylegan2-cond bench --json speed.json")
def bench(
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="where figures go too", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small shapes and few repeats: minutes")] = False,
    device: Device = "",
) -> None:
    """Measure the ops, a training step and drawing against plain PyTorch, on this machine."""
    from stylegan2_cond.speed.report import measure_speed, table

    report = measure_speed(device or default_device(), quick=quick)
    print(table(report))
    if json is not None:
        report.save(json)
        print(f"Figures: {json}")


@app.command(short_help="Tell what there is to compute with.", epilog="Example: stylegan2-cond doctor --build")
def doctor(
    build: Annotated[bool, typer.Option("--build", help="compile the ops now, even where that failed before")] = False,
) -> None:
    """Tell what there is to compute with, and the state of each backend of the ops."""
    from stylegan2_cond.ops.doctor import diagnose

    lines, well = diagnose(build=build)
    for name, text in lines:
        print(f"{name:<12}{text}")
    if not well:
        raise typer.Exit(1)


def parse_sizes(text: str | None) -> tuple[int, ...] | None:
    """`"48,32"` → `(48, 32)`."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise UserError(f"--patch-size {text} is not a list of sizes. Type for example --patch-size 48,32") from None


def parse_areas(texts: list[str]) -> dict[int, float]:
    """`["1=0.05"]` → `{1: 0.05}`."""
    areas: dict[int, float] = {}
    for text in texts:
        try:
            label, area = (kind(part) for kind, part in zip((int, float), text.split("="), strict=True))
        except ValueError:
            raise UserError(f"--area {text} is not CLASS=SHARE. Type for example --area 1=0.05 for 5 %") from None
        if label in areas:
            raise UserError(f"--area {text}: class {label} has an area already. Give it once.")
        areas[label] = area
    return areas


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end a job, stop the work as Ctrl-C does, with a word on how to continue."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_device() -> str:
    """The first GPU, where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run_app(app: typer.Typer) -> None:
    """Run a typer app; errors that a user can mend end with one paragraph and exit code 2, a stop with 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    try:
        app()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None or error.errno not in OF_PATHS:
            raise
        print(f"Error: {str(error.filename)[:300]}: {error.strerror}. Choose another path.", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """Entry point of `stylegan2-cond`."""
    keep_freed_memory()
    run_app(app)
