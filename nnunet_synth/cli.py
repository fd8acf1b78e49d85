"""nnunet-synth: parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nnunet_synth.bank import MARGIN
from nnunet_synth.benchmark.options import BenchmarkOptions
from stylegan2_cond.cli import (
    Configuration,
    Dataset,
    Device,
    FoldName,
    Kimg,
    Plans,
    Version,
    default_device,
    run_app,
    stop_on_sigterm,
)
from stylegan2_cond.errors import UserError

BankVariant = Literal["pair", "image"]
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _commands(version: Version = False) -> None:
    """Synthetic image-mask pairs in nnU-Net's training."""


@app.command(short_help="Fill a bank with drawn pairs.", epilog="Example: nnunet-synth bank 4 2d 0 -n 1000")
def bank(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    samples: Annotated[
        int, typer.Option("-n", metavar="N", help="samples that the bank is to hold", min=1, show_default=False)
    ],
    plans: Plans = "nnUNetPlans",
    snapshot: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[=W]", help="several are an ensemble; the fold's best if not given"),
    ] = None,
    variant: Annotated[BankVariant, typer.Option(metavar="V", help="whose best snapshot: pair or image")] = "pair",
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="for image: deformed, real, generated, or a mask snapshot", show_default=False
        ),
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="ask for each class equally often")] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="FILTER", help="leave open: finite, range, anatomy, fit, copy or all")
    ] = None,
    margin: Annotated[
        float, typer.Option(metavar="M", help="that filters give beyond what is real, as a share", min=0)
    ] = MARGIN,
    nnunet: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="trained nnU-Net for fit; the newest of the fold if not given", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="of the bank", show_default=False)] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="of the stream of samples", min=0)] = 0,
    device: Device = "",
) -> None:
    """Fill a bank with drawn pairs, in nnU-Net's preprocessed format; after a stop, the same command goes on."""
    from nnunet_synth.bank.fill import fill_bank
    from nnunet_synth.bank.format import RECORD_FILE, BankRecord
    from nnunet_synth.bank.previews import PREVIEW, describe_filters
    from nnunet_synth.bank.request import FillRequest, parse_snapshot
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed
    from stylegan2_cond.memory import keep_freed_memory

    keep_freed_memory()
    request = FillRequest(
        samples=samples,
        snapshots=tuple(map(parse_snapshot, snapshot or ())),
        variant=variant,
        masks=masks,
        balanced=balanced,
        name=name,
        seed=seed,
        without=tuple(without or ()),
        margin=margin,
        nnunet=nnunet,
    )
    with stop_on_sigterm():
        folder = fill_bank(open_preprocessed(dataset, configuration, plans), fold, request, device or default_device())
    print(f"{describe_filters(BankRecord.load(folder / RECORD_FILE))}\nBank: {folder}\nPreview: {folder / PREVIEW}")


@app.command(
    short_help="Check a bank, and show it on a page.",
    epilog="Example: nnunet-synth inspect $nnUNet_preprocessed/…/nnUNetPlans_2d_synth/fold_0/pair_200k",
)
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="BANK", help="folder of the bank", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE.html", help="inspection.html in the bank, if not given", show_default=False),
    ] = None,
) -> None:
    """Hold a bank's files against their checksums, and show what is in it on a page that needs nothing else.

    Exit code 1 if a file is missing or damaged.
    """
    from nnunet_synth.bank.inspection import inspect_bank
    from nnunet_synth.bank.verify import DamagedBank

    try:
        path, page = inspect_bank(folder, output)
    except DamagedBank as error:
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(page.summary, *(f"{note.title}: {note.text}" for note in page.notes), f"Page: {path}", sep="\n")


@app.command(
    short_help="Write a plans file that mixes as you say.",
    epilog="Example: nnunet-synth plan 4 2d --ratio 0.5 --schedule cosine -o nnUNetPlansHalf",
)
def plan(
    dataset: Dataset,
    configuration: Configuration,
    ratio: Annotated[
        float, typer.Option(metavar="R", help="probability that a draw is synthetic", min=0, max=1, show_default=False)
    ],
    name: Annotated[str, typer.Option("-o", metavar="NEWPLANS", help="name of the new plans", show_default=False)],
    schedule: Annotated[str, typer.Option(metavar="S", help="constant, linear, cosine or pretrain")] = "linear",
    bank_name: Annotated[
        str | None, typer.Option("--bank", metavar="NAME", help="the newest if not given", show_default=False)
    ] = None,
    plans: Plans = "nnUNetPlans",
) -> None:
    """Write a plans file that mixes as you say; no new preprocessing. Train with nnunet-synth train … -p NEWPLANS."""
    from nnunet_synth.bank.format import folds_with_bank
    from nnunet_synth.training.settings import make_settings, write_plans
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed

    settings = make_settings(bank=bank_name, ratio=ratio, schedule=schedule)
    preprocessed = open_preprocessed(dataset, configuration, plans)
    path = write_plans(preprocessed, settings, name)
    print(f"Plans: {path}\nTrain: nnunet-synth train {dataset} {configuration} FOLD -p {name}")
    if bank_name and not folds_with_bank(preprocessed, bank_name):
        print(
            f"No fold has a bank {bank_name} yet. Fill it before you train: "
            f"nnunet-synth bank {dataset} {configuration} FOLD -n 1000 --name {bank_name}"
        )


@app.command(
    short_help="nnUNetv2_train with synthetic pairs.",
    # No -h here: it would be found in any of nnU-Net's options with one dash and an h, as -pretrained_weights.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog="nnUNetv2_train -h lists the arguments. Example: nnunet-synth train 4 2d 0 -device cpu",
)
def train(context: typer.Context) -> None:
    """nnUNetv2_train with synthetic pairs: the same arguments, -tr nnUNetTrainerSynth unless another is given."""
    from nnunet_synth.launcher import launch_training

    launch_training(context.args)


@app.command(
    short_help="Let nnU-Net's own commands find the trainer.",
    epilog='Example: eval "$(nnunet-synth env)" && nnUNetv2_train 4 2d 0 -tr nnUNetTrainerSynth',
)
def env() -> None:
    """Print the line that lets nnU-Net's own commands find nnUNetTrainerSynth."""
    from nnunet_synth.launcher import shell_line

    print(shell_line())


@app.command(
    "export-dataset",
    short_help="Write a bank as an nnU-Net raw dataset.",
    epilog='Example: nnunet-synth export-dataset …/fold_0/pair_200k -o "$nnUNet_raw"',
)
def export_dataset(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="folder with bank.json", show_default=False)],
    target: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="nnUNet_raw, or what stands for it", show_default=False)
    ],
    dataset_id: Annotated[
        int | None,
        typer.Option(
            "--id", metavar="N", help="of the new dataset; free if not given", min=1, max=999, show_default=False
        ),
    ] = None,
    synthetic_only: Annotated[bool, typer.Option("--synthetic-only", help="leave real cases out")] = False,
    links: Annotated[bool, typer.Option("--links", help="link real cases instead of copying them")] = False,
    stack: Annotated[
        int | None,
        typer.Option(metavar="N", help="slices to a case; those of a volume if not given", min=1, show_default=False),
    ] = None,
) -> None:
    """Write a bank and the real cases of its fold as an nnU-Net raw dataset; after a stop, the same command goes on."""
    from nnunet_synth.export.dataset import export_dataset as run
    from nnunet_synth.export.messages import describe_dataset

    written = run(bank, target, dataset_id=dataset_id, synthetic_only=synthetic_only, links=links, stack=stack)
    print(describe_dataset(*written))


@app.command(
    "export-model",
    short_help="Write a model that needs no plugin.",
    epilog="Example: nnunet-synth export-model …/nnUNetTrainerSynth__nnUNetPlans__2d -o shared",
)
def export_model(
    folder: Annotated[
        Path, typer.Argument(metavar="TRAINED_FOLDER", help="<trainer>__<plans>__<configuration>", show_default=False)
    ],
    target: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="stands for nnUNet_results elsewhere", show_default=False)
    ],
    trainer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="of nnU-Net's; the plain one of the model if not given", show_default=False),
    ] = None,
) -> None:
    """Write a trained folder as a model that nnU-Net alone uses, with a card of the synthetic data that it saw."""
    from nnunet_synth.export.messages import describe_model
    from nnunet_synth.export.model import export_model as run

    print(describe_model(run(folder, target, trainer)))


@app.command(
    short_help="Do synthetic pairs help here?",
    epilog="Example: nnunet-synth benchmark 4 2d --quick -o hippocampus --sizes 4,8,16 --test-cases 40",
)
def benchmark(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="as for the other commands")] = "",
    configuration: Annotated[str, typer.Argument(metavar="CONFIGURATION", help="e.g. 2d")] = "",
    plans: Plans = "nnUNetPlans",
    folder: Annotated[Path, typer.Option("-o", metavar="FOLDER", help="where everything goes")] = Path("benchmark"),
    quick: Annotated[bool, typer.Option("--quick", help="narrow nnU-Net, short trainings: minutes on a CPU")] = False,
    sizes: Annotated[
        str | None, typer.Option(metavar="N,…", help="of training sets; 4,8,16,32,all", show_default=False)
    ] = None,
    training_sets: Annotated[
        int, typer.Option(metavar="N", help="Number of training sets of each size.", min=1)
    ] = BenchmarkOptions.training_sets,
    test_cases: Annotated[
        str | None, typer.Option(metavar="N|FILE", help="how many, or their names; drawn", show_default=False)
    ] = None,
    subjects: Annotated[
        str | None, typer.Option(metavar="REGEX", help="finds a case's subject in its name", show_default=False)
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(metavar="NAME", help="run this; repeatable")] = None,
    arms: Annotated[
        Path | None, typer.Option(metavar="FILE", help="arms of your own, as TOML", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="of nnU-Net", min=1, show_default=False)] = None,
    iterations: Annotated[int | None, typer.Option(metavar="N", help="of an epoch", min=1, show_default=False)] = None,
    kimg: Kimg = None,
    jobs: Annotated[int | None, typer.Option(metavar="J", help="at a time", min=1, show_default=False)] = None,
    slurm: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="of sbatch: run there")] = None,
    device: Device = "",
    seed: Annotated[int, typer.Option(metavar="S", help="of all draws of cases", min=0)] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell what there is to do, do nothing")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="from FOLDER's tables alone")] = False,
    show_arms: Annotated[bool, typer.Option("--show-arms", help="print the arms that there are, as TOML")] = False,
) -> None:
    """Do synthetic pairs help here? Arms on equal cases, a report; after a stop, the same command goes on."""
    from nnunet_synth.benchmark.arms import DEFAULT_ARMS
    from nnunet_synth.benchmark.run import describe_report, run_benchmark, write_report

    if show_arms:
        print(DEFAULT_ARMS.read_text(encoding="utf-8"), end="")
        return
    if report_only:
        print(describe_report(write_report(folder)))
        return
    if not (dataset and configuration):
        raise UserError("Which data? Type for example: nnunet-synth benchmark 4 2d --quick -o hippocampus")
    options = BenchmarkOptions(
        dataset=dataset,
        configuration=configuration,
        plans=plans,
        folder=folder,
        arms_file=arms,
        arms=tuple(arm or ()),
        sizes=sizes,
        training_sets=training_sets,
        test_cases=test_cases,
        subjects=subjects,
        quick=quick,
        epochs=epochs,
        iterations=iterations,
        kimg=kimg,
        jobs=jobs,
        slurm=tuple(slurm or ()),
        device=device or default_device(),
        seed=seed,
    )
    if (summary := run_benchmark(options, dry=dry_run)) is None:
        return
    print(describe_report(summary.report))
    if summary.without_result:
        print(f"{summary.without_result} of {summary.runs} runs have no result; the same command tries them again.")
        raise typer.Exit(1)


@app.command(short_help="The whole way on virtual subjects.", epilog="Example: nnunet-synth demo --folder /tmp/demo")
def demo(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="where everything goes")] = Path("demo"),
    device: Device = "",
) -> None:
    """The whole way on virtual subjects, in minutes: generator, bank, nnU-Net with and without it."""
    from nnunet_synth.demo.run import run_demo

    run_demo(folder, device or default_device())


def main() -> None:
    """Entry point of `nnunet-synth`."""
    run_app(app)
