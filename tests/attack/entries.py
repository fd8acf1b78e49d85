"""What reads each file: a row of the table is a file, damage to it, and the calls that it goes through."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch
from raw_cases import run_options
from raw_files import NAME
from safetensors.torch import load_file, save_file

import nnunet_synth.cli
import stylegan2_cond.cli
from attack.mutations import Rng, byte_damage, damaged, tree_of_tensors_damage
from attack.outcomes import run_main
from attack.victims import Victims, small_design, source_of
from nnunet_synth.bank.format import BankRecord, PseudoLabels, find_banks
from nnunet_synth.bank.provenance import provenance
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.benchmark.analysis import analyse
from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import load_or_create
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.scoring import score_predictions
from nnunet_synth.benchmark.tasks import make_tasks
from nnunet_synth.export.model import export_model
from nnunet_synth.export.model_card import describe_fold
from nnunet_synth.training.leak_guard import refuse_leaks
from nnunet_synth.training.mirror_padding import NO_MARGINS, Margins
from nnunet_synth.training.mixed_dataset import MixedBank, MixedDataset, MixingControl
from nnunet_synth.training.usage_record import TrainingRecord
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.io import checksum
from stylegan2_cond.metrics.features_nnunet import NnUNet, open_newest, open_nnunet
from stylegan2_cond.planning import Plan, Source, run_folder
from stylegan2_cond.snapshot import load_generator, sha256
from stylegan2_cond.training.checkpoint import load_checkpoint
from stylegan2_cond.training.log_file import Log, read_log
from stylegan2_cond.training.model_selection import choose_best
from stylegan2_cond.training.progress_plot import save_progress
from stylegan2_cond.training.run_setup import load_or_make_plan
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.step import take_step

Damage = Callable[[Victims, Rng], str]
Entry = Callable[[Victims], object]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        damage: what is done to the victims; says what it was.
        entry: what reads them then.
        share: of the mutations, in proportion to the other rows.
        faithful: whatever is taken must be what it was, as the entry's result tells.
    """

    damage: Damage
    entry: Entry
    share: float = 1.0
    faithful: bool = False


def file_damage(file: Callable[[Victims], Path]) -> Damage:
    """Damage one file by what fits its ending; every second time, a record's checksum over itself is renewed."""

    def damage(victims: Victims, rng: Rng) -> str:
        what = damaged(path := file(victims), rng)
        if path.suffix == ".json" and rng.random() < 0.5:
            with contextlib.suppress(OSError, ValueError, RecursionError, TypeError):
                renew(path, lambda content: None)
        return what

    return damage


# --- nnU-Net's files


def read_dataset(victims: Victims) -> None:
    """What every command does first, with all that it asks of plans and dataset.json."""
    preprocessed = victims.open()
    fold = preprocessed.fold(0)
    Source.of(preprocessed, fold)
    assert preprocessed.label_manager.foreground_labels
    assert preprocessed.patch_size
    assert preprocessed.preprocess_command
    assert preprocessed.load(fold.training[0]).image[:].any()


def read_settings_of_trainer(victims: Victims) -> None:
    """The trainer's hook, which reads the `synth` block and the bank that it names."""
    trainer = make_trainer(victims, json.loads((victims.base / "nnUNetPlans.json").read_text()))
    trainer.get_tr_and_val_datasets()


def make_trainer(victims: Victims, plans: dict, fold: int | str = 0, name: str = "nnUNetTrainerSynth"):
    """A trainer of the plugin as nnU-Net makes one, with its folder below the victims'."""
    from nnunet_synth.training import trainer as trainers

    dataset_json = json.loads((victims.base / "dataset.json").read_text())
    made = getattr(trainers, name)(plans | {"continue_training": False}, "2d", fold, dataset_json, torch.device("cpu"))
    made.dataset_class = Preprocessed(NAME, made.plans_manager, "2d", dataset_json).dataset_class
    return made


def damage_block(victims: Victims, rng: Rng) -> str:
    path = victims.base / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    several = {"banks": [{"name": "kb", "ratio": 0.25}], "schedule": "linear", "cutmix": 0.5}
    block = {"bank": "kb", "ratio": 0.25, "schedule": "linear"} if rng.random() < 0.5 else several
    alone = victims.folder / "block.json"
    alone.write_text(json.dumps(block))
    for _ in range(20):
        what = damaged(alone, rng)
        try:
            plans["configurations"]["2d"]["synth"] = json.loads(alone.read_text())
            path.write_text(json.dumps(plans))
            return what
        except (OSError, ValueError, RecursionError):
            if alone.is_dir():
                alone.rmdir()
            else:
                alone.unlink(missing_ok=True)
            alone.write_text(json.dumps(block))
    return "nothing"


# --- generators


def plan_and_step(victims: Victims) -> None:
    """Settle the plan, and train one step by it from the start."""
    preprocessed = victims.open()
    fold = preprocessed.fold(0)
    plan = load_or_make_plan(run_options(preprocessed, "0"), preprocessed, fold, torch.device("cpu")).plan
    step_of(preprocessed, plan, TrainingState.start(plan, torch.device("cpu")))


def step_of(preprocessed: Preprocessed, plan: Plan, state: TrainingState) -> None:
    real = PatchSampler(
        preprocessed,
        plan.source.training_cases,
        plan.patch_size,
        foreground_share=plan.foreground_share,
        seed=plan.seed,
    )
    batch = real.batch(0, plan.batch_size)
    take_step(state, batch.image, batch.label, batch.position)


def draw(victims: Victims) -> str:
    """Open a snapshot and draw; returns a digest of what was drawn."""
    pairs = load_generator(victims.snapshot).sample(3)
    return digest(pairs.image, pairs.label)


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def damage_weights(victims: Victims, rng: Rng) -> str:
    """Damaged weights whose checksum the card names all the same."""
    path = victims.snapshot / "generator.safetensors"
    if rng.random() < 0.6:
        tree = load_file(path)
        what, tree = tree_of_tensors_damage(tree, rng)
        try:
            save_file({name: part.contiguous() for name, part in tree.items()}, path)
        except Exception:  # what safetensors can't hold
            return "nothing"
    else:
        what, content = byte_damage(path.read_bytes(), rng)
        path.write_bytes(content)
    renew(victims.snapshot / "card.json", lambda card: card.update(weights_sha256=sha256(path)))
    return what


def renew(path: Path, change: Callable[[dict], object]) -> None:
    """Edit a JSON file by hand, as someone does who renews its checksum as well."""
    content = json.loads(path.read_text())
    change(content)
    if isinstance(content, dict) and "checksum" in content:
        content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))


def read_telemetry(victims: Victims) -> None:
    """All that reads a log: the log itself, the choice of the best snapshot, the picture."""
    lines = read_log(victims.run)
    if lines:
        choose_best(lines)
    save_progress(victims.run)
    log = Log(victims.run, 16)
    log.write(24, {"kid": 1.0})
    read_log(victims.run)


def resume(victims: Victims) -> str:
    """Load a checkpoint and train a step; returns a digest of the state that was loaded."""
    preprocessed = victims.open()
    plan = Plan.load(victims.run / "plan.json")
    state = TrainingState.start(plan, torch.device("cpu"))
    if not load_checkpoint(run_folder(plan.source), state):
        return "fresh"
    found = digest_of_tree(state.state_dict())
    step_of(preprocessed, plan, state)
    return found


def digest_of_tree(tree: object) -> str:
    """Of all tensors and numbers in a nest of dicts and lists, in order."""
    told = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, torch.Tensor):
            told.update(str(part.dtype).encode() + part.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(part, Mapping):
            for key in part:
                told.update(str(key).encode())
                add(part[key])
        elif isinstance(part, (list, tuple)):
            for one in part:
                add(one)
        else:
            told.update(repr(part).encode())

    add(tree)
    return told.hexdigest()


def damage_checkpoint_parts(file: Callable[[Victims], Path]) -> Damage:
    """A file of torch's with other keys, types, shapes or values."""

    def damage(victims: Victims, rng: Rng) -> str:
        tree = torch.load(file(victims), weights_only=False)
        what, tree = tree_of_tensors_damage(tree, rng)
        torch.save(tree, file(victims))
        return what

    return damage


# --- banks


def use_bank(victims: Victims) -> str:
    """All that a training does with a bank; returns a digest of its samples."""
    preprocessed = victims.open()
    fold = preprocessed.fold(0)
    folder = find_banks(victims.bank.parent)
    folder = folder[-1] if folder else victims.bank
    here = Source.of(preprocessed, fold)
    refuse_leaks(folder, BankRecord.load(folder / RECORD_FILE), here, case_hashes(preprocessed, fold.validation))
    record = verify_bank(folder, preprocessed)
    provenance(folder)
    bank = BankDataset(str(folder), [shard.name for shard in record.shards])
    control = MixingControl()
    control.ratios = [1.0]
    real = preprocessed.dataset_class(str(preprocessed.folder), list(fold.training))
    scans = isinstance(record.origin, PseudoLabels)
    margins = NO_MARGINS if scans else Margins.to_size(record.origin.patch_size, (20, 18), (24, 20))
    mixed = MixedDataset(real, [MixedBank(bank, record, margins)], control)
    for name in ("case_0", "case_1"):
        image, label, _, properties = mixed.load_case(name)
        box = tuple(slice(0, min(2, length)) for length in image.shape)
        image[box], label[(slice(0, 1), *box[1:])]
        for voxels in properties["class_locations"].values():
            if len(voxels):
                np.asarray(voxels)[0] + np.zeros(4, int)
    return digest(*(part[:] for shard in record.shards for part in bank.load_case(shard.name)[:2]))


SCANS = {
    "kind": "pseudo_labels",
    "teachers": [
        {"path": "nnUNetTrainer__nnUNetPlans__2d", "sha256": "0" * 64, "configuration": "2d", "banks": ["kb"]}
    ],
    "scans": [
        {"name": "scan_0", "image_sha256": "1" * 64, "confidence": {"first": 0.9}, "refused": "confidence: 0.1"},
        {"name": "scan_1", "image_sha256": "1" * 64, "evaluation_case": "validation case case_4 (the same image)"},
    ],
}


def damage_bank_of_scans(victims: Victims, rng: Rng) -> str:
    """The record as one of labelled scans, damaged."""
    path = victims.bank / "bank.json"
    renew(path, lambda record: record.update(origin=SCANS, requested=len(SCANS["scans"])))
    return file_damage(lambda _: path)(victims, rng)


def damage_shard(ending: str) -> Damage:
    """A shard's file, whose checksum the record still names."""
    return file_damage(lambda victims: victims.bank / f"synth_00000{ending}")


def damage_shard_and_renew(ending: str) -> Damage:
    """A shard's file with other content, and its checksum written into the record by hand."""

    def damage(victims: Victims, rng: Rng) -> str:
        path = victims.bank / f"synth_00000{ending}"
        if rng.random() < 0.5:
            what = (_other_properties if ending == ".pkl" else _other_array)(path, rng)
        else:
            what, content = byte_damage(path.read_bytes(), rng)
            path.write_bytes(content)
        renew(victims.bank / "bank.json", lambda record: _renew_shard(record, path))
        return what

    return damage


def _renew_shard(record: dict, path: Path) -> None:
    for shard in record["shards"]:
        if path.name in shard["files"]:
            shard["files"][path.name] = sha256(path)


def _other_array(path: Path, rng: Rng) -> str:
    array = blosc2.open(urlpath=str(path), mode="r")[:]
    changes = {
        "float64": array.astype(np.float64),
        "not a number": np.full_like(array, np.nan) if array.dtype.kind == "f" else np.full_like(array, 99),
        "complex": array.astype(np.complex64),
        "text": array.astype("U3"),
        "half": array[:, : array.shape[1] // 2],
        "one channel more": np.concatenate([array, array[:1]]),
        "no axis": array.reshape(-1),
        "empty": array[:, :0],
        "turned": array.swapaxes(2, 3).copy(),
        "one axis more": array[None],
        "negative": -array,
        "boolean": array > 0,
    }
    what = list(changes)[rng.integers(len(changes))]
    path.unlink()
    blosc2.asarray(np.ascontiguousarray(changes[what]), urlpath=str(path))
    return what


def _other_properties(path: Path, rng: Rng) -> str:
    properties = pickle.loads(path.read_bytes())
    places = properties["class_locations"]
    changes = {
        "None": None,
        "list": [1],
        "no locations": {"spacing": [1, 1]},
        "locations are a list": {**properties, "class_locations": [1]},
        "locations are None": {**properties, "class_locations": None},
        "locations of text": {**properties, "class_locations": dict.fromkeys(places, "abc")},
        "locations beyond": {
            **properties,
            "class_locations": {key: np.asarray(v) + 10**6 for key, v in places.items()},
        },
        "locations are floats": {
            **properties,
            "class_locations": {key: np.asarray(v) + 0.5 for key, v in places.items()},
        },
        "flat locations": {**properties, "class_locations": {key: np.asarray(v).ravel() for key, v in places.items()}},
        "other classes": {**properties, "class_locations": {99: next(iter(places.values()))}},
        "negative": {**properties, "class_locations": {key: -np.asarray(v) - 1 for key, v in places.items()}},
        "deep": _nest(100),
    }
    what = list(changes)[rng.integers(len(changes))]
    path.write_bytes(pickle.dumps(changes[what]))
    return what


def _nest(depth: int) -> list:
    nested: list = []
    for _ in range(depth):
        nested = [nested]
    return nested


# --- nnU-Nets


def find_judge(victims: Victims) -> None:
    """What `bank` and `evaluate` do with every nnU-Net below $nnUNet_results."""
    segment(open_newest(source_of(victims)))


def open_judge(victims: Victims) -> None:
    """What `evaluate --nnunet FOLDER` does."""
    segment(open_nnunet(victims.judge, source_of(victims)))


def segment(network: NnUNet) -> None:
    image, label = np.zeros((2, 2, 16, 14), np.float32), np.zeros((2, 16, 14), np.int16)
    samples = SampleSet(image, label, np.full(2, 0.5, np.float32))
    network.segment(samples), network(samples)


def export(victims: Victims) -> None:
    export_model(victims.judge, victims.folder / "exported")


def read_training_record(victims: Victims) -> None:
    folder = victims.judge / "fold_0"
    describe_fold(folder, {"checkpoint_final.pth": 1})
    TrainingRecord.load(folder / "synthetic_data.json")


# --- benchmarks


def go_on(victims: Victims) -> None:
    """What the benchmark's command does before and after its jobs."""
    design = load_or_create(small_design(victims.open()), victims.benchmark)
    make_tasks(design)
    write_tables(victims.benchmark, design)
    analyse(read_benchmark(victims.benchmark))


def report(victims: Victims) -> None:
    """What `--report-only` reads; its page is written of nothing else."""
    analyse(read_benchmark(victims.benchmark))


def score(victims: Victims) -> None:
    preprocessed = victims.open()
    score_predictions(preprocessed, victims.judge / "fold_0" / "validation", preprocessed.fold(0).validation)


def of_benchmark(name: str) -> Callable[[Victims], Path]:
    return lambda victims: next(victims.benchmark.rglob(name))


# --- command lines

COMMANDS: Mapping[str, tuple[Callable[[], None], list[str], tuple[str, ...]]] = {
    "stylegan2-cond train": (
        stylegan2_cond.cli.main,
        ["train", NAME, "2d", "0"],
        ("--kimg", "--patch-size", "--seed", "--memory-gb", "--set", "--device", "--variant", "-p"),
    ),
    "stylegan2-cond generate": (
        stylegan2_cond.cli.main,
        ["generate", "SNAPSHOT", "-n", "2", "-o", "FOLDER/drawn"],
        ("-n", "-o", "--seed", "--truncation", "--classes", "--area", "--position", "--masks", "--device"),
    ),
    "stylegan2-cond evaluate": (
        stylegan2_cond.cli.main,
        ["evaluate", "SNAPSHOT", "--metric", "swd", "-n", "20"],
        ("--metric", "-n", "--seed", "--features", "--nnunet", "--device"),
    ),
    "nnunet-synth bank": (
        nnunet_synth.cli.main,
        ["bank", NAME, "2d", "0", "-n", "10", "--without", "all"],
        ("-n", "--snapshot", "--variant", "--masks", "--without", "--margin", "--name", "--seed", "--device", "-p"),
    ),
    "nnunet-synth plan": (
        nnunet_synth.cli.main,
        ["plan", NAME, "2d", "--ratio", "0.5", "-o", "nnUNetPlansHalf"],
        ("--ratio", "-o", "--schedule", "--bank", "-p"),
    ),
    "nnunet-synth inspect": (nnunet_synth.cli.main, ["inspect", "BANK"], ("-o",)),
    "nnunet-synth export-dataset": (
        nnunet_synth.cli.main,
        ["export-dataset", "BANK", "-o", "FOLDER/exported"],
        ("-o", "--id", "--stack"),
    ),
    "nnunet-synth export-model": (
        nnunet_synth.cli.main,
        ["export-model", "JUDGE", "-o", "FOLDER/exported"],
        ("-o", "--trainer"),
    ),
    "nnunet-synth benchmark": (
        nnunet_synth.cli.main,
        ["benchmark", NAME, "2d", "--quick", "-o", "FOLDER/other", "--sizes", "4", "--test-cases", "5", "--dry-run"],
        ("-p", "-o", "--sizes", "--training-sets", "--test-cases", "--subjects", "--arm", "--arms", "--runs", "--steps",
         "--kimg", "--jobs", "--slurm", "--device", "--seed"),
    ),
    "nnunet-synth benchmark --report-only": (
        nnunet_synth.cli.main,
        ["benchmark", "--report-only", "-o", "FOLDER/nothing"],
        ("-o",),
    ),
}  # fmt: skip
ARGUMENTS = (
    "", " ", "nan", "inf", "-inf", "1e400", "1e308", "-1", "0", "1e-320", "9" * 5000, "[" * 3000, "x" * 300, "x" * 5000,
    "٣", "½", "a\nb", "../../x", "/etc/passwd", "/dev/null", "/proc/x", "/proc/self/mem", ".", "/", "dataset",
    "splits_final", "dataset_fingerprint", "meta", "tpu", "cuda:99", "1,2", "1x2", "0,0", "a=b", "=", "kimg=inf",
    "learning_rate=1e999", "r1_weight=nan", "batch_size=" + "[" * 3000, "batch_size=" + "9" * 5000, "channels=[0,0]",
    "channels=[1]", "factors=[]", "seed=-1", "codec=1", "patch=[-1,2]", "$(reboot)", "é", "\udcff", "pair", "all",
    "FOLDER", "BANK", "SNAPSHOT", "JUDGE", "FOLDER/none", "1=0.5", "99=0.5", "1=nan", "(", "(?P<x>.", "True",
    "None", "--help",
)  # fmt: skip


def damage_command(victims: Victims, rng: Rng) -> str:
    """Type a command with another argument, an option doubled, or an argument left out; the line is kept in a file."""
    name = list(COMMANDS)[rng.integers(len(COMMANDS))]
    _, line, options = COMMANDS[name]
    line = list(line)
    value = ARGUMENTS[rng.integers(len(ARGUMENTS))]
    how = rng.random()
    if how < 0.2 and len(line) > 1:
        line[rng.integers(1, len(line))] = value
    elif how < 0.25 and len(line) > 1:
        del line[rng.integers(1, len(line))]
    else:
        line += [options[rng.integers(len(options))], value]
    places = {"SNAPSHOT": victims.snapshot, "BANK": victims.bank, "JUDGE": victims.judge, "FOLDER": victims.folder}
    for place, path in places.items():
        line = [part.replace(place, str(path)) if part.startswith(place) else part for part in line]
    (victims.folder / "line.pickle").write_bytes(pickle.dumps((name, line)))
    return f"{name}: {' '.join(line[1:])[:150]!r}"


def type_command(victims: Victims) -> object:
    from stylegan2_cond.training import train as loop

    os.chdir(victims.folder)
    loop.SMALLEST_SNAPSHOT_INTERVAL = 10**9
    name, line = pickle.loads((victims.folder / "line.pickle").read_bytes())
    return run_main(COMMANDS[name][0], *line)()


ROWS: Mapping[str, Row] = {
    "splits_final.json -> fold": Row(file_damage(lambda v: v.base / "splits_final.json"), read_dataset),
    "nnUNetPlans.json -> dataset": Row(file_damage(lambda v: v.base / "nnUNetPlans.json"), read_dataset),
    "dataset.json -> dataset": Row(file_damage(lambda v: v.base / "dataset.json"), read_dataset),
    "synth block -> trainer": Row(damage_block, read_settings_of_trainer, share=0.5),
    "plan.json -> settled, one step": Row(file_damage(lambda v: v.run / "plan.json"), plan_and_step, share=1.5),
    "card.json -> draw": Row(file_damage(lambda v: v.snapshot / "card.json"), draw, share=1.5),
    "generator.safetensors -> draw": Row(
        file_damage(lambda v: v.snapshot / "generator.safetensors"), draw, share=0.5, faithful=True
    ),
    "generator.safetensors, checksum renewed -> draw": Row(damage_weights, draw),
    "log.jsonl -> log, best, picture": Row(file_damage(lambda v: v.run / "log.jsonl"), read_telemetry),
    "checkpoint_latest.pt -> one step": Row(
        file_damage(lambda v: v.run / "checkpoint_latest.pt"), resume, share=1.5, faithful=True
    ),
    "checkpoint_latest.pt, other parts -> one step": Row(
        damage_checkpoint_parts(lambda v: v.run / "checkpoint_latest.pt"), resume
    ),
    "bank.json -> use": Row(file_damage(lambda v: v.bank / "bank.json"), use_bank, share=1.5),
    "bank.json of scans -> use": Row(damage_bank_of_scans, use_bank),
    "bank.json of another bank -> trainer": Row(
        file_damage(lambda v: v.bank / "bank.json"), read_settings_of_trainer, share=0.5
    ),
    **{
        f"shard {ending} -> use": Row(damage_shard(ending), use_bank, 0.4, True)
        for ending in (".b2nd", "_seg.b2nd", ".pkl")
    },
    **{
        f"shard {ending}, checksum renewed -> use": Row(damage_shard_and_renew(ending), use_bank, 0.7)
        for ending in (".b2nd", "_seg.b2nd", ".pkl")
    },
    "design.json -> go on": Row(file_damage(lambda v: v.benchmark / "design.json"), go_on),
    "design.json -> report": Row(file_damage(lambda v: v.benchmark / "design.json"), report, share=0.5),
    "record of a run -> go on": Row(file_damage(of_benchmark("run_nnunet_4_0.json")), go_on, share=0.5),
    "scores of a run -> go on": Row(file_damage(of_benchmark("run_nnunet_4_0.csv")), go_on, share=0.5),
    "scores.csv -> report": Row(file_damage(lambda v: v.benchmark / "scores.csv"), report),
    "runs.csv -> report": Row(file_damage(lambda v: v.benchmark / "runs.csv"), report),
    "evaluation.json -> go on": Row(file_damage(of_benchmark("evaluation.json")), go_on, share=0.5),
    "bank.json -> go on": Row(file_damage(of_benchmark("bank.json")), go_on, share=0.5),
    "card.json -> go on": Row(file_damage(of_benchmark("card.json")), go_on, share=0.5),
    "summary.json -> scores": Row(file_damage(lambda v: v.judge / "fold_0/validation/summary.json"), score),
    "summary.json -> judge": Row(
        file_damage(lambda v: v.judge / "fold_0/validation/summary.json"), find_judge, share=0.5
    ),
    "judge's plans.json -> found": Row(file_damage(lambda v: v.judge / "plans.json"), find_judge),
    "judge's plans.json -> named": Row(file_damage(lambda v: v.judge / "plans.json"), open_judge, share=0.5),
    "judge's dataset.json -> found": Row(file_damage(lambda v: v.judge / "dataset.json"), find_judge),
    "judge's checkpoint -> found": Row(file_damage(lambda v: v.judge / "fold_0/checkpoint_final.pth"), find_judge),
    "judge's checkpoint, other parts -> found": Row(
        damage_checkpoint_parts(lambda v: v.judge / "fold_0/checkpoint_final.pth"), find_judge
    ),
    "checkpoint_final.pth -> export": Row(
        file_damage(lambda v: v.judge / "fold_0/checkpoint_final.pth"), export, share=0.5
    ),
    "checkpoint_final.pth, other parts -> export": Row(
        damage_checkpoint_parts(lambda v: v.judge / "fold_0/checkpoint_final.pth"), export, share=0.5
    ),
    "plans.json -> export": Row(file_damage(lambda v: v.judge / "plans.json"), export, share=0.5),
    "dataset.json -> export": Row(file_damage(lambda v: v.judge / "dataset.json"), export, share=0.5),
    "synthetic_data.json -> export": Row(
        file_damage(lambda v: v.judge / "fold_0/synthetic_data.json"), export, share=0.3
    ),
    "synthetic_data.json -> record": Row(
        file_damage(lambda v: v.judge / "fold_0/synthetic_data.json"), read_training_record, share=0.5
    ),
    "command lines": Row(damage_command, type_command, share=2),
}
