"""nnunet-synth: parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.models import OptionInfo

from nnunet_synth.bank import MARGIN
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.launcher import DEFAULT_TRAINER
from nnunet_synth.pseudo_labels.request import DEFAULT_LEAST, DEFAULT_NAME, ROUNDS, PseudoLabelRequest
from nnunet_synth.training.schedule import DEFAULT_SCHEDULE
from stylegan2_cond.cli import (
    Configuration,
    Dataset,
    Device,
    FoldName,
    Json,
    Kimg,
    Plans,
    SampleSeed,
    Version,
    default_device,
    print_json,
    run_app,
    stop_on_sigterm,
)
from stylegan2_cond.errors import UserError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _option(metavar: str, text: str, *names: str, **limits: float) -> OptionInfo:
    """An option without a default value, or whose help names it."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, **limits)


Samples = Annotated[int, _option("N", "Number of samples in the bank.", "-n", min=1)]
Snapshots = Annotated[
    list[str] | None, _option("PATH[=W]", "Snapshot, with a weight (repeatable; default: the fold's best).")
]
BankVariant = Annotated[
    Literal["pair", "image"], typer.Option(metavar="V", help="Variant of that best snapshot: pair or image.")
]
Masks = Annotated[
    str | None,
    _option("SOURCE", "Masks for images: deformed (default), blended, real, registered, generated or a snapshot."),
]
Without = Annotated[
    list[str] | None, _option("FILTER", "Turn off finite, range, anatomy, fit, copy or all (repeatable).")
]
Margin = Annotated[
    float, typer.Option(metavar="M", help="Tolerance of each filter, as a fraction of the real range.", min=0)
]
Nnunet = Annotated[Path | None, _option("FOLDER", "Trained nnU-Net for the filter fit (default: newest of the fold).")]
BankName = Annotated[str | None, _option("NAME", "Name of the bank (default: variant and images seen).")]
Bank = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of a bank, with bank.json.", show_default=False)]
Models = Annotated[
    list[Path],
    typer.Argument(metavar="MODEL…", help="Folders <trainer>__<plans>__<configuration>.", show_default=False),
]
OutputFolder = Annotated[Path, typer.Option("-o", metavar="FOLDER", help="Output folder.")]
Sizes = Annotated[str | None, _option("N,…", "Sizes of training sets (default: 4,8).")]
TrainingSets = Annotated[int, typer.Option(metavar="N", help="Training sets of each size.", min=1)]
Runs = Annotated[int, typer.Option(metavar="N", help="Runs of each arm and set.", min=1)]
TestCases = Annotated[str | None, _option("N", "Number of test cases, or a file of names.")]
Subjects = Annotated[str | None, _option("REGEX", "Regular expression for the subject in a case's name.")]
ArmNames = Annotated[list[str] | None, _option("NAME", "Run this arm (repeatable).", "--arm")]
ArmsFile = Annotated[Path | None, _option("FILE", "TOML file with other arms.", "--arms")]
Steps = Annotated[int | None, _option("N", "Training steps of nnU-Net.", min=1)]
Jobs = Annotated[int | None, _option("J", "Number of parallel jobs.", min=1)]
Slurm = Annotated[list[str] | None, _option("KEY=VALUE", "sbatch option; submits the jobs to SLURM (repeatable).")]


@app.callback()
def _commands(version: Version = False) -> None:
    """Fill banks of synthetic image-mask pairs, and train nnU-Net with them."""


@app.command(short_help="Fill a bank with synthetic pairs.", epilog="Example: nnunet-synth bank 4 2d 0 -n 1000")
def bank(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    samples: Samples,
    plans: Plans = "nnUNetPlans",
    snapshot: Snapshots = None,
    variant: BankVariant = "pair",
    with_bank: Annotated[str | None, _option("NAME", "Use the generator that learnt from this bank's scans.")] = None,
    masks: Masks = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Request each class equally often.")] = False,
    without: Without = None,
    margin: Margin = MARGIN,
    nnunet: Nnunet = None,
    name: BankName = None,
    seed: SampleSeed = 0,
    device: Device = "",
) -> None:
    """Fill a bank with synthetic pairs in nnU-Net's preprocessed format. To resume, run the same command again."""
    from nnunet_synth.bank.fill import fill_bank
    from nnunet_synth.bank.previews import PREVIEW, next_commands
    from nnunet_synth.bank.request import FillRequest, parse_snapshot
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed
    from stylegan2_cond.memory import keep_freed_memory

    keep_freed_memory()
    request = FillRequest(
        samples=samples,
        snapshots=tuple(map(parse_snapshot, snapshot or ())),
        variant=variant,
        with_bank=with_bank,
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
    inspect, train = next_commands(folder)
    print(f"Bank: {folder}\nPreview: {folder / PREVIEW}\nNext: {inspect}\nThen: {train}")


@app.command(
    "pseudo-label",
    short_help="Fill a bank with unlabelled scans.",
    epilog="Example: nnunet-synth pseudo-label 4 2d 0 -i unlabelled_scans",
)
def pseudo_label(
    dataset: Dataset,
    configuration: Configuration,
    fold: FoldName,
    source: Annotated[
        str,
        _option("FOLDER|LIST", "Folder of images, or names of preprocessed cases (a,b or a file).", "-i"),
    ],
    plans: Plans = "nnUNetPlans",
    teacher: Annotated[
        list[Path] | None,
        _option("MODEL", "Folder of a trained nnU-Net (repeatable; default: the fold's, and within it)."),
    ] = None,
    least: Annotated[
        float | None,
        _option("C", f"Least confidence (default: {DEFAULT_LEAST}, or more).", "--confidence", min=0, max=1),
    ] = None,
    without: Annotated[list[str] | None, _option("FILTER", "Turn off confidence, anatomy or all (repeatable).")] = None,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Let validation and test cases in, and say so in every record.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(metavar="R", help="Rounds; in between, nnU-Net is trained with the bank.", min=1)
    ] = ROUNDS,
    trainer: Annotated[str, typer.Option("-tr", metavar="TRAINER", help="Trainer between rounds.")] = DEFAULT_TRAINER,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the bank.")] = DEFAULT_NAME,
    device: Device = "",
) -> None:
    """Let trained nnU-Nets label scans, and fill a bank with them. To resume, run the same command again.

    Exit code 1 if a scan cannot be used.
    """
    from nnunet_synth.bank.previews import next_commands
    from nnunet_synth.pseudo_labels.rounds import run_rounds
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed

    request = PseudoLabelRequest(
        source=source,
        teachers=tuple(teacher or ()),
        name=name,
        without=tuple(without or ()),
        least_confidence=least,
        transductive=transductive,
    )
    with stop_on_sigterm():
        preprocessed = open_preprocessed(dataset, configuration, plans)
        result = run_rounds(preprocessed, fold, request, device or default_device(), rounds, trainer)
    inspect, train = next_commands(result.folder)
    print(f"Bank: {result.folder}\nNext: {inspect}\nThen: {train}")
    if result.unreadable:
        raise typer.Exit(1)


@app.command(
    short_help="Check a bank and write a page about it.",
    epilog="Example: nnunet-synth inspect $nnUNet_preprocessed/…/nnUNetPlans_2d_synth/fold_0/pair_200k",
)
def inspect(
    bank: Bank,
    output: Annotated[Path | None, _option("FILE.html", "Page (default: BANK/inspection.html).", "-o")] = None,
    as_json: Json = False,
) -> None:
    """Check every file of a bank, and write an HTML page about it. Exit code 1 if a file is missing or damaged."""
    from nnunet_synth.bank.inspection import inspect_bank
    from nnunet_synth.bank.previews import next_commands
    from nnunet_synth.bank.verify import DamagedBank

    try:
        path, page = inspect_bank(bank, output)
    except DamagedBank as error:
        print(f"Error: {error}", file=sys.stderr)
        if as_json:
            print_json({"error": str(error)})
        raise typer.Exit(1) from None
    if as_json:
        notes = [{"title": note.title, "text": note.text, "state": note.state} for note in page.notes]
        print_json({"path": str(path), "summary": page.summary, "notes": notes})
        return
    print(page.summary, *(f"{note.title}: {note.text}" for note in page.notes), f"Page: {path}", sep="\n")
    print(f"Next: {next_commands(bank)[1]}")


@app.command(
    short_help="Write plans that mix synthetic pairs into training.",
    epilog="Example: nnunet-synth plan 4 2d --bank pseudo=0.5 --bank pair_200k=0.1 -o nnUNetPlansBoth",
)
def plan(
    dataset: Dataset,
    configuration: Configuration,
    name: Annotated[str, _option("NEWPLANS", "Name of the new plans.", "-o")],
    ratio: Annotated[
        float | None, _option("R", "Probability of a draw from the bank (default: 0.25; 0.5 for scans).", min=0, max=1)
    ] = None,
    schedule: Annotated[
        str, typer.Option(metavar="S", help="How R changes over epochs: constant, linear, cosine or pretrain.")
    ] = DEFAULT_SCHEDULE,
    banks: Annotated[
        list[str] | None,
        _option("NAME[=R]", "Bank (default: newest of the fold); several have a ratio each (repeatable).", "--bank"),
    ] = None,
    cutmix: Annotated[
        float | None,
        _option("P", "Probability of CutMix of real and bank patches; if R is 0, of real ones.", min=0, max=1),
    ] = None,
    plans: Plans = "nnUNetPlans",
    as_json: Json = False,
) -> None:
    """Write nnU-Net plans that mix synthetic pairs into training, for the same preprocessed cases.

    Then train with: nnunet-synth train … -p NEWPLANS
    """
    from nnunet_synth.bank.format import folds_with_bank
    from nnunet_synth.training.settings import BLOCK, make_settings, write_plans
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed

    settings = make_settings(banks=banks or (), ratio=ratio, schedule=schedule, cutmix=cutmix)
    preprocessed = open_preprocessed(dataset, configuration, plans)
    path = write_plans(preprocessed, settings, name)
    train = f"nnunet-synth train {dataset} {configuration} FOLD -p {name}"
    missing = [bank for bank, _ in settings.shares if bank and not folds_with_bank(preprocessed, bank)]
    fill = [f"nnunet-synth bank {dataset} {configuration} FOLD -n 1000 --name {bank}" for bank in missing]
    if as_json:
        print_json({"path": str(path), BLOCK: settings.model_dump(exclude_unset=True), "next": [*fill, train]})
        return
    print(f"Plans: {path}\nTrain: {train}")
    for bank, command in zip(missing, fill, strict=True):
        print(f"No fold has a bank {bank} yet. Fill it before training: {command}")


@app.command(
    short_help="Run nnUNetv2_train with synthetic pairs.",
    options_metavar="DATASET CONFIGURATION FOLD [OPTIONS]",  # which nnU-Net parses
    # No -h here: it would be found in any of nnU-Net's options with one dash and an h, as -pretrained_weights.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog="Example: nnunet-synth train 4 2d 0 -device cpu",
)
def train(context: typer.Context) -> None:
    """Run nnUNetv2_train with synthetic pairs: same arguments, default -tr nnUNetTrainerSynth.

    nnUNetv2_train -h lists the arguments.
    """
    from nnunet_synth.launcher import launch_training

    launch_training(context.args)


@app.command(
    short_help="Make nnU-Net's own commands find the trainer.",
    epilog='Example: eval "$(nnunet-synth env)" && nnUNetv2_train 4 2d 0 -tr nnUNetTrainerSynth',
)
def env() -> None:
    """Print a shell command that makes nnU-Net's own commands find nnUNetTrainerSynth."""
    from nnunet_synth.launcher import shell_line

    print(shell_line())


@app.command(
    short_help="Show what there is for a dataset, and what to type next.", epilog="Example: nnunet-synth status 4"
)
def status(dataset: Dataset, as_json: Json = False) -> None:
    """Show what there is for a dataset in nnU-Net's folders, and what to type next.

    Generators with progress and scores, banks, and trainings of nnU-Net.
    """
    from nnunet_synth.status import read_status

    found = read_status(dataset)
    if as_json:
        print_json(found.json())
    else:
        found.show()


@app.command(
    "export-dataset",
    short_help="Write a bank as an nnU-Net raw dataset.",
    epilog='Example: nnunet-synth export-dataset …/fold_0/pair_200k -o "$nnUNet_raw"',
)
def export_dataset(
    bank: Bank,
    target: Annotated[Path, _option("FOLDER", "nnUNet_raw, or a folder like it.", "-o")],
    dataset_id: Annotated[
        int | None, _option("N", "Number of the new dataset (default: a free one).", "--id", min=1, max=999)
    ] = None,
    synthetic_only: Annotated[bool, typer.Option("--synthetic-only", help="Leave out the real cases.")] = False,
    links: Annotated[bool, typer.Option("--links", help="Link real cases instead of copying them.")] = False,
    stack: Annotated[int | None, _option("N", "Slices in a case (default: as in a volume).", min=1)] = None,
) -> None:
    """Write a bank and the real cases of its fold as an nnU-Net raw dataset. To resume, run the same command again."""
    from nnunet_synth.export.dataset import export_dataset as run
    from nnunet_synth.export.messages import describe_dataset

    written = run(bank, target, dataset_id=dataset_id, synthetic_only=synthetic_only, links=links, stack=stack)
    print(describe_dataset(*written))


@app.command(
    "export-model",
    short_help="Write a trained model that needs no plugin.",
    epilog="Example: nnunet-synth export-model …/nnUNetTrainerSynth__nnUNetPlans__2d -o shared",
)
def export_model(
    folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Folder <trainer>__<plans>__<configuration>.", show_default=False),
    ],
    target: Annotated[Path, _option("FOLDER", "nnUNet_results, or a folder like it.", "-o")],
    trainer: Annotated[str | None, _option("NAME", "Trainer of nnU-Net (default: the model's plain one).")] = None,
) -> None:
    """Write a trained model for use without the plugin, with a card of the synthetic data that it was trained on."""
    from nnunet_synth.export.messages import describe_model
    from nnunet_synth.export.model import export_model as run

    print(describe_model(run(folder, target, trainer)))


@app.command(
    "export-submission",
    short_help="Write a trained model as a submission to a challenge.",
    epilog="Example: nnunet-synth export-submission …/nnUNetTrainerSynth__nnUNetPlans__2d -o submission "
    "--input images/brain-mri --output images/hippocampus-segmentation",
)
def export_submission(
    folders: Models,
    target: Annotated[Path, _option("PATH", "New folder.", "-o")],
    inputs: Annotated[
        list[str] | None,
        _option("images/SLUG", "Input of the challenge (repeatable, in the order of channels).", "--input"),
    ] = None,
    output: Annotated[str | None, _option("images/SLUG", "Output of the challenge.", "--output")] = None,
    format_: Annotated[
        Literal["grand-challenge", "nnunet-zip"],
        typer.Option("--format", metavar="F", help="grand-challenge or nnunet-zip; -o is then the new zip file."),
    ] = "grand-challenge",
) -> None:
    """Write a container folder like Grand Challenge's template. Several models are an ensemble of all their folds.

    What nnUNetv2_find_best_configuration recommends for the models is followed, with its postprocessing.
    """
    from nnunet_synth.export.messages import describe_submission, describe_zip
    from nnunet_synth.export.submission.write import export_submission as run
    from nnunet_synth.export.submission.zip import export_zip

    if format_ == "nnunet-zip":
        print(describe_zip(target, export_zip(folders, target)))
    elif inputs and output:
        print(describe_submission(run(folders, target, inputs, output)))
    else:
        raise UserError("--input or --output is missing. Example: --input images/brain-mri --output images/lesions")


@app.command(
    short_help="Measure whether synthetic pairs help.",
    epilog="Example: nnunet-synth benchmark 4 2d --quick -o hippocampus --sizes 4",
)
def benchmark(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Number or name.")] = "",
    configuration: Annotated[str, typer.Argument(metavar="CONFIGURATION", help="For example 2d.")] = "",
    plans: Plans = BenchmarkOptions.plans,
    folder: OutputFolder = BenchmarkOptions.folder,
    quick: Annotated[bool, typer.Option("--quick", help="Narrow nnU-Net and short trainings, for CPUs.")] = False,
    sizes: Sizes = None,
    training_sets: TrainingSets = BenchmarkOptions.training_sets,
    runs: Runs = BenchmarkOptions.runs,
    test_cases: TestCases = None,
    subjects: Subjects = None,
    arms: ArmNames = None,
    arms_file: ArmsFile = None,
    steps: Steps = None,
    kimg: Kimg = None,
    jobs: Jobs = None,
    slurm: Slurm = None,
    device: Device = "",
    seed: SampleSeed = BenchmarkOptions.seed,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and exit.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Write the report of FOLDER again.")] = False,
    show_arms: Annotated[bool, typer.Option("--show-arms", help="Show the available arms as TOML, and exit.")] = False,
    calibration: Annotated[bool, typer.Option("--calibrate", help="Compare lengths of training instead.")] = False,
    as_json: Json = False,
) -> None:
    """Measure whether synthetic pairs help, and write a report. To resume, run the same command again."""
    arguments = dict(locals())
    from nnunet_synth.benchmark.arms import DEFAULT_ARMS
    from nnunet_synth.benchmark.run import (
        calibrate,
        calibration_options,
        describe_report,
        plan_benchmark,
        run_benchmark,
        write_report,
    )

    describe = (lambda path: path.with_suffix(".json").read_text(encoding="utf-8")) if as_json else describe_report
    if show_arms:
        print(DEFAULT_ARMS.read_text(encoding="utf-8"), end="")
        return
    if report_only:
        print(describe(write_report(folder)))
        return
    if not (dataset and configuration):
        raise UserError("DATASET and CONFIGURATION are missing. Example: nnunet-synth benchmark 4 2d --quick -o small")
    given = {name: arguments[name] for name in BenchmarkOptions.__dataclass_fields__}
    given |= {"arms": tuple(arms or ()), "slurm": tuple(slurm or ()), "device": device or default_device()}
    options = BenchmarkOptions(**given)
    if dry_run:
        plans = [plan_benchmark(one) for one in (calibration_options(options) if calibration else [options])]
        print_json({"benchmarks": [plan.json() for plan in plans]}) if as_json else print(*plans, sep="\n")
        return
    with stop_on_sigterm():
        summary = (calibrate if calibration else run_benchmark)(options)
    print(describe(summary.report))
    if summary.without_result:
        print(
            f"{summary.without_result} of {summary.runs} runs have no result; the same command tries them again.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command(
    short_help="Try everything on virtual subjects, in minutes.", epilog="Example: nnunet-synth demo --folder /tmp/demo"
)
def demo(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder.")] = Path("demo"), device: Device = ""
) -> None:
    """Train a generator on virtual subjects, fill a bank, and train nnU-Net with and without it."""
    from nnunet_synth.demo.run import run_demo

    run_demo(folder, device or default_device())


def main() -> None:
    """Entry point of `nnunet-synth`."""
    run_app(app)
