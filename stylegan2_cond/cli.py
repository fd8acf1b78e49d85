"""stylegan2-cond: parses, calls, prints."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from stylegan2_cond import Variant
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.memory import keep_freed_memory

if TYPE_CHECKING:
    from stylegan2_cond.planning import RunOptions

PATH_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EROFS, errno.EPERM)
_argument, _option = (partial(kind, show_default=False) for kind in (typer.Argument, typer.Option))
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _dataset_names(incomplete: str) -> list[str]:
    """Names of preprocessed datasets that begin so, for a shell to complete."""
    from nnunetv2.paths import nnUNet_preprocessed

    folders = Path(nnUNet_preprocessed.get() or os.devnull).glob("Dataset*")
    return sorted(folder.name for folder in folders if folder.name.startswith(incomplete))


Dataset = Annotated[
    str,
    _argument(metavar="DATASET", help="Dataset, e.g. 4 or Dataset004_Hippocampus.", autocompletion=_dataset_names),
]
Configuration = Annotated[str, _argument(metavar="CONFIGURATION", help="Configuration of nnU-Net, e.g. 2d.")]
FoldName = Annotated[str, _argument(metavar="FOLD", help="Fold, 0 to 4, or all.")]
Snapshot = Annotated[Path, _argument(metavar="SNAPSHOT", help="Folder of a snapshot, with card.json.")]
Plans = Annotated[str, typer.Option("-p", "--plans", metavar="PLANS", help="Name of nnU-Net's plans.")]
Device = Annotated[str, _option(metavar="D", help="Device, e.g. cpu or cuda:1 (default: cuda if available).")]
VariantName = Annotated[Variant, typer.Option(metavar="V", help="Output: pair, mask, or image for masks.")]
Memory = Annotated[
    float | None, _option("--memory-gb", metavar="G", help="Memory budget in GiB (default: free memory).")
]
Settings = Annotated[
    list[str] | None, _option("--set", metavar="KEY=VALUE", help="Set a key of the plan (repeatable).")
]
Kimg = Annotated[float | None, _option(metavar="N", help="Thousands of training images (default: from the data).")]
Hours = Annotated[float | None, _option(metavar="H", help="Hours of training, instead of --kimg (default on CUDA: 8).")]
PatchSize = Annotated[
    str | None, _option(metavar="H,W", help="Size of the generated patches (default: from the data).")
]
Seed = Annotated[int | None, _option(metavar="S", help="Random seed (default: 0).", min=0)]
WithBank = Annotated[
    str | None, _option("--with-bank", metavar="NAME", help="Learn from the scans of a pseudo-labelled bank as well.")
]
TrustMasks = Annotated[
    bool, _option("--trust-masks", help="Learn from the scans' pseudo-labels too, not from images alone.")
]
Json = Annotated[bool, _option("--json", help="Print the result as JSON.")]
SampleSeed = Annotated[int, typer.Option("--seed", metavar="S", help="Random seed.", min=0)]


def _show_version(shown: bool) -> None:
    if shown:
        from importlib.metadata import version

        print(f"nnunet-synth {version('nnunet-synth')}, nnunetv2 {version('nnunetv2')}, torch {version('torch')}")
        raise typer.Exit


Version = Annotated[
    bool, _option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
]


@app.callback()
def _commands(version: Version = False) -> None:
    """Train a generator of image-mask pairs on one nnU-Net fold, and sample from it."""


@app.command(
    short_help="Make a plan and show the reason for each choice.",
    epilog="Example: stylegan2-cond plan 4 2d 0 --memory-gb 4 --set batch_size=8",
)
def plan(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    plans: Plans = "nnUNetPlans",
    variant: VariantName = "pair",
    kimg: Kimg = None,
    hours: Hours = None,
    patch_size: PatchSize = None,
    seed: Seed = None,
    with_bank: WithBank = None,
    trust_masks: TrustMasks = False,
    memory_gb: Memory = None,
    settings: Settings = None,
    device: Device = "",
    overwrite: Annotated[bool, _option("--overwrite", help="Replace the plan, if training has not begun.")] = False,
    as_json: Json = False,
) -> None:
    """Make a plan for training, show the reason for each choice, measure one training step, and write plan.json."""
    arguments = dict(locals())
    import shutil
    from dataclasses import asdict

    from stylegan2_cond.planning.table import table
    from stylegan2_cond.training.run_setup import describe_costs, plan_run

    options = _run_options(**{key: value for key, value in arguments.items() if key not in ("overwrite", "as_json")})
    found = plan_run(options, overwrite=overwrite)
    if as_json:
        print_json({"path": str(found.path), "plan": found.plan.model_dump(mode="json"), "step": asdict(found.cost)})
        return
    print(table(found.plan, min(140, shutil.get_terminal_size((120, 40)).columns)))
    print(f"\n{describe_costs(found)}\n{'Written to' if found.is_new else 'Read from'} {found.path}")
    on = ("--device", device) if device else ()  # all else is in the plan
    print(f"Next: {found.plan.source.command('stylegan2-cond train', *on, variant=variant)}")


@app.command(short_help="Train a generator on a fold.", epilog="Example: stylegan2-cond train 4 2d 0 --kimg 50")
def train(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    plans: Plans = "nnUNetPlans",
    variant: VariantName = "pair",
    kimg: Kimg = None,
    hours: Hours = None,
    patch_size: PatchSize = None,
    seed: Seed = None,
    with_bank: WithBank = None,
    trust_masks: TrustMasks = False,
    memory_gb: Memory = None,
    settings: Settings = None,
    device: Device = "",
) -> None:
    """Train a generator on the training cases of a fold. To resume, run the same command again."""
    options = _run_options(**locals())
    from stylegan2_cond.training.train import train as run

    run(options)


def _run_options(
    *, patch_size: str | None, settings: list[str] | None, device: str, trust_masks: bool, **options: object
) -> RunOptions:
    from stylegan2_cond.planning import RunOptions, parse_overrides

    return RunOptions(
        **options,
        patch_size=parse_sizes(patch_size),
        device=device or default_device(),
        overrides=parse_overrides(settings or []),
        trust_masks=trust_masks or None,
    )


@app.command(
    short_help="Generate samples as NIfTI files.",
    epilog="Example: stylegan2-cond generate fold_0/best -n 50 -o out --with-class 2",
)
def generate(
    snapshot: Snapshot,
    samples: Annotated[int, _option("-n", metavar="N", help="Number of samples.", min=1)],
    folder: Annotated[Path, _option("-o", metavar="FOLDER", help="Folder for images, labels and preview.")],
    seed: SampleSeed = 0,
    truncation: Annotated[float, typer.Option(metavar="T", help="Below 1: more typical, less diverse.", min=0)] = 1.0,
    with_class: Annotated[
        list[int] | None, _option(metavar="L", help="Show this class and no other (repeatable).")
    ] = None,
    position: Annotated[float | None, _option(metavar="P", help="Position of slices in their volume, 0 to 1.")] = None,
    area: Annotated[
        list[str] | None, _option(metavar="L=SHARE", help="Share of the patch for a class (repeatable).")
    ] = None,
    masks: Annotated[
        str | None,
        _option(metavar="SOURCE", help="Masks for images: deformed (default), blended, real or a snapshot."),
    ] = None,
    device: Device = "",
) -> None:
    """Generate samples as NIfTI files, in nnU-Net's units. To resume, run the same command again."""
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
    _suggest_bank(snapshot)


@app.command(short_help="Evaluate a snapshot.", epilog="Example: stylegan2-cond evaluate fold_0/best --metric kid")
def evaluate(
    snapshot: Snapshot,
    metric: Annotated[
        list[str] | None, _option(metavar="NAME", help="Metric, e.g. kid (repeatable; default: all).")
    ] = None,
    samples: Annotated[
        int | None, _option("-n", metavar="N", help="Number of samples (default: 2000; 3-D: 300).", min=20)
    ] = None,
    seed: SampleSeed = 0,
    features: Annotated[
        str | None, _option(metavar="NAME", help="Features: nnunet, random or inception-v3-compat.")
    ] = None,
    nnunet: Annotated[
        Path | None, _option(metavar="FOLDER", help="Trained nnU-Net (default: the newest of the fold).")
    ] = None,
    held_out: Annotated[
        bool, _option("--held-out", help="Also compare with validation cases; never select by them.")
    ] = False,
    device: Device = "",
    as_json: Json = False,
) -> None:
    """Evaluate a snapshot: realism, diversity, fit of the masks, and copies of training cases."""
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
    if as_json:
        print_json({"path": str(snapshot / EVALUATION_FILE), **found.model_dump(mode="json")})
        return
    print(table(found))
    print(f"{found.seconds:.0f} s, {found.peak_bytes / 2**30:.1f} GiB at the peak. {snapshot / EVALUATION_FILE}")
    if found.copy_candidates:
        print(f"Samples and their nearest real neighbours: {snapshot / PICTURE_FILE}")
    _suggest_bank(snapshot)


def _suggest_bank(snapshot: Path) -> None:
    """Print the command that fills a bank from a snapshot, if it can fill one."""
    from stylegan2_cond.snapshot import CARD_FILE, Card

    if (plan := Card.load(snapshot / CARD_FILE).plan).variant != "mask":
        print(f"Next: {plan.source.command('nnunet-synth bank', '-n', '1000', '--snapshot', str(snapshot))}")


@app.command(short_help="Measure the speed on this machine.", epilog="Example: stylegan2-cond bench -o speed.json")
def bench(
    output: Annotated[Path | None, _option("-o", metavar="FILE", help="Also write the results to this file.")] = None,
    quick: Annotated[bool, _option("--quick", help="Small shapes and few repetitions; takes minutes.")] = False,
    device: Device = "",
) -> None:
    """Measure the speed of the ops, a training step and sampling, compared with plain PyTorch."""
    from stylegan2_cond.speed.report import measure_speed, table

    report = measure_speed(device or default_device(), quick=quick)
    print(table(report))
    if output is not None:
        report.save(output)
        print(f"Results: {output}")


@app.command(
    short_help="Show available devices, compilers and backends.", epilog="Example: stylegan2-cond doctor --build"
)
def doctor(
    build: Annotated[bool, _option("--build", help="Compile the ops now, even if that failed before.")] = False,
    as_json: Json = False,
) -> None:
    """Show available devices and compilers, and the state of each backend of the ops."""
    from stylegan2_cond.ops.doctor import diagnose

    lines, well = diagnose(build=build)
    if as_json:
        print_json(dict(lines))
    else:
        print(*(f"{name:<12}{text}" for name, text in lines), sep="\n")
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
            raise UserError(f"--area {text}: class {label} already has an area. Give each class once.")
        areas[label] = area
    return areas


def print_json(content: object) -> None:
    """Print what JSON can express, for other programs."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end a job, stop the work as Ctrl-C does.

    A process forked meanwhile, such as a worker of nnU-Net's pools, ends at once: while it starts, an exception may be
    lost, and its pool would wait for it forever.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_device() -> str:
    """The first GPU if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run_app(app: typer.Typer) -> None:
    """Run a typer app; errors that a user can fix end with one paragraph and exit code 2, a stop with 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    try:
        app()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None or error.errno not in PATH_ERRORS:
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
