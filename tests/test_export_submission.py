"""A submission predicts what nnU-Net predicts, where nothing but nnU-Net is, and declares all data."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from raw_files import NAME, Format, case_files, dataset, make_bank

from nnunet_synth.bank.format import BankRecord, PseudoLabels, Teacher
from nnunet_synth.export.model import export_model
from nnunet_synth.export.submission import write
from nnunet_synth.export.submission.example import Measured
from nnunet_synth.export.submission.write import export_submission
from nnunet_synth.training.settings import SynthSettings
from nnunet_synth.training.usage_record import record_use
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import LabelledScan
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import ScanSource

STYLE = Format("SimpleITKIO", ".nii.gz")
INPUTS, OUTPUT = ("images/t1-mri", "images/t2-mri"), "images/lesions"
LARGEST = "remove_all_but_largest_component_from_segmentation"


def train(data, folds=("0", "1"), trainer="nnUNetTrainer", seed=0, **changes):
    """The folder that nnU-Net's training leaves, of networks of random weights; `changes` are made to dataset.json."""
    folder = data.base.parents[1] / "nnUNet_results" / NAME / f"{trainer}__nnUNetPlans__{data.configuration_name}"
    plans, dataset_json = data.plans_manager.plans, data.dataset_json | changes
    configuration, heads = data.configuration, data.plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    for number, fold in enumerate(folds):
        torch.manual_seed(100 * seed + number)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            len(configuration.normalization_schemes),
            heads,
        )
        content = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"momentum": torch.zeros(1000)},
            "trainer_name": "nnUNetTrainer",
            "current_epoch": 7,
            "inference_allowed_mirroring_axes": (0, 1),
            "init_args": {"configuration": data.configuration_name, "plans": plans, "dataset_json": dataset_json},
        }
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    files = {"plans": plans, "dataset": dataset_json, "dataset_fingerprint": {}}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def recommend(folder, models, folds=(0, 1), options=()):
    """What `nnUNetv2_find_best_configuration` leaves in a dataset's folder, as on another machine."""
    place = folder / "ensembles" / "ensemble___a" if len(models) > 1 else models[0] / "crossval_results_folds_0_1"
    place.mkdir(parents=True)
    content = {"postprocessing_fns": [LARGEST] * len(options), "postprocessing_kwargs": list(options)}
    (place / "postprocessing.json").write_text(json.dumps(content))
    keys = ("trainer", "plans_identifier", "configuration")
    selected = [dict(zip(keys, model.name.split("__"), strict=True)) for model in models]
    best = {
        "result_on_crossval_pre_pp": 0.7,
        "result_on_crossval_post_pp": 0.8,
        "selected_model_or_models": selected,
        "postprocessing_file": f"/elsewhere/{NAME}/{place.relative_to(folder)}/postprocessing.pkl",
    }
    information = {"folds": list(folds), "best_model_or_ensemble": best}
    (folder / "inference_information.json").write_text(json.dumps(information))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six cases of noise in two channels, raw and preprocessed."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return dataset(tmp_path, STYLE)


@pytest.fixture
def not_run(data, monkeypatch, tmp_path):
    """The example is written, but not run; nnU-Net need not start a dozen processes to find its files."""
    path = tmp_path / "nnUNet_raw" / NAME / "dataset.json"
    images = [f"imagesTr/case_0_000{number}.nii.gz" for number in range(2)]
    change(path, dataset={"case_0": {"images": images, "label": "labelsTr/case_0.nii.gz"}})
    monkeypatch.setattr(write, "run_example", lambda folder, size: Measured(size, 12.3, 2**30, 0))


def export(models, target, inputs=INPUTS, output=OUTPUT):
    return export_submission([models] if isinstance(models, Path) else models, target, inputs, output)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def own_prediction(model, folds, data):
    """nnU-Net's own label map of the first raw case."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    files = case_files(data.base.parents[1] / "nnUNet_raw" / NAME, "case_0", STYLE)[0]
    return predictor.predict_single_npy_array(*data.plans_manager.image_reader_writer_class().read_images(files))


def test_the_folder_predicts_what_nnunet_predicts_and_nothing_of_this_machine_is_in_it(data, tmp_path, run_here):
    model, folder = train(data), tmp_path / "out" / "submission"
    options = ["-o", str(folder), "--input", INPUTS[0], "--input", INPUTS[1], "--output", OUTPUT]
    code, printed, _ = run_here("nnunet-synth", "export-submission", str(model), *options)
    assert code == 0
    assert "inference_information.json" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["submission"]

    result, first = (
        sitk.ReadImage(str(folder / "test" / path / "images" / file))
        for path, file in (("expected_output/interf0", "lesions/output.mha"), ("input/interf0", "t1-mri/case_0.mha"))
    )
    expected = own_prediction(model, ("0", "1"), data)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), expected)
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(result, geometry)() == getattr(first, geometry)()
    raw = tmp_path / "nnUNet_raw" / NAME / "imagesTr"
    for number, slug in enumerate(INPUTS):
        delivered = folder / "test" / "input" / "interf0" / slug / "case_0.mha"
        np.testing.assert_array_equal(read(delivered), read(raw / f"case_0_000{number}.nii.gz"))
    sockets = json.loads((folder / "test" / "input" / "interf0" / "inputs.json").read_text())
    assert [socket["socket"]["relative_path"] for socket in sockets] == list(INPUTS)

    weights = folder / "model" / model.name
    assert sorted(path.name for path in weights.iterdir() if path.is_dir()) == ["fold_0", "fold_1"]
    assert "optimizer_state" not in torch.load(weights / "fold_0" / "checkpoint_final.pth", weights_only=False)
    with tarfile.open(folder / "model.tar.gz") as archive:
        archived = {member.name.removeprefix("./") for member in archive if member.isfile()}
        assert not any(member.uname or member.uid for member in archive)
    assert archived == {str(path.relative_to(folder / "model")) for path in weights.rglob("*") if path.is_file()}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path


@pytest.fixture
def written(data, not_run, tmp_path):
    """A submission of two folds, not run."""
    return export(train(data), tmp_path / "submission").folder


def test_the_container_has_the_releases_of_here_and_the_limits_of_the_platform(written):
    pinned = dict(line.split("==") for line in (written / "requirements.txt").read_text().splitlines())
    assert pinned["nnunetv2"] == version("nnunetv2")
    assert pinned["torch"] == version("torch").split("+")[0]
    assert {"numpy", "simpleitk", "acvl-utils", "dynamic-network-architectures"} <= pinned.keys()
    assert not pinned.keys() & {"nnunet-synth", "pytest"}
    lines = (written / "Dockerfile").read_text().splitlines()
    assert f"python:{sys.version_info.major}.{sys.version_info.minor}-slim" in lines[0]
    assert [line.split()[0] for line in lines if line][-2:] == ["USER", "ENTRYPOINT"]
    assert [line.split()[-2] for line in lines if line.startswith("COPY")] == ["requirements.txt", "inference.py"]
    assert (written / ".dockerignore").read_text().split() == ["*", "!inference.py", "!requirements.txt"]
    for script in ("do_build.sh", "do_test_run.sh", "do_save.sh"):
        assert (written / script).stat().st_mode & 0o111
        subprocess.run(["bash", "-n", written / script], check=True)
    run_script = (written / "do_test_run.sh").read_text()
    for option in ("--pids-limit 128", "--shm-size 128m", "linux/amd64", "'{{json .Runtimes}}'"):
        assert option in run_script
    ruff = [
        Path(sys.executable).with_name("ruff"),
        "check",
        "--isolated",
        "--select",
        "F,E501",
        "--line-length",
        "120",
        written,
    ]
    subprocess.run(ruff, check=True, stdout=subprocess.DEVNULL)


DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >> "$DOCKER_LOG"
test "$1" != info || echo '{"runc": {}}'
"""


def test_the_scripts_call_docker_as_the_platform_runs_a_container(written, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_LOG", str(log := tmp_path / "log"))
    for memory in ("", "30g"):  # the second time, there is an output to remove
        monkeypatch.setenv("MEMORY", memory)
        log.unlink(missing_ok=True)
        subprocess.run([written / "do_test_run.sh"], check=True, stdout=subprocess.DEVNULL)
        limit = memory or "15g"
        assert f"--memory {limit} --memory-swap {limit}" in log.read_text()
    called = log.read_text().splitlines()
    (build,) = (line for line in called if line.startswith("build"))
    assert build.endswith(f"--tag dataset950-small {written}")
    ran, compared, cleaned = (line for line in called if line.startswith("run"))
    assert ran.endswith("dataset950-small")
    for volume in (f"{written}/test/input/interf0:/input:ro", f"{written}/model:/opt/ml/model:ro"):
        assert volume in ran
        assert Path(volume.split(":")[0]).is_dir()
    assert f"{written}/test/output/interf0:/output" in ran
    assert (written / "test" / "output" / "interf0").stat().st_mode & 0o007 == 0o007
    assert "--network none" in ran
    assert "--gpus" not in ran
    assert f"{written}/test:/test:ro" in compared
    assert "chmod" in cleaned
    subprocess.run([written / "do_save.sh", "mine"], check=True, stdout=subprocess.DEVNULL)
    assert log.read_text().splitlines()[-1] == "save mine"
    assert (written / "mine.tar.gz").is_file()


@pytest.fixture
def run_inference(written, monkeypatch, tmp_path):
    """Runs inference.py of a submission in this process, on its example in a folder that can be spoilt."""
    shutil.copytree(written / "test" / "input" / "interf0", tmp_path / "input")
    places = {"INPUT_PATH": tmp_path / "input", "OUTPUT_PATH": tmp_path / "output", "MODEL_PATH": written / "model"}
    changed = ("HOME", "MPLCONFIGDIR", "nnUNet_compile", "nnUNet_n_proc_DA")
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")
    for name, value in {**places, **dict.fromkeys(changed, ""), **dict.fromkeys(threads, "1")}.items():
        monkeypatch.setenv(name, str(value))
    return lambda: runpy.run_path(str(written / "inference.py"), run_name="__main__")


def fail(error):
    def predict(*arguments, **options):
        raise error

    return predict


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_case_that_does_not_fit_into_memory_is_said(run_inference, monkeypatch, error):
    monkeypatch.setattr(nnUNetPredictor, "predict_single_npy_array", fail(error))
    with pytest.raises(SystemExit, match=r"image of \(2, 5, 24, 20\) needs more memory"):
        run_inference()
    monkeypatch.setattr(nnUNetPredictor, "predict_single_npy_array", fail(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        run_inference()


def test_missing_inputs_and_models_are_said(run_inference, tmp_path, written):
    folder = tmp_path / "input" / INPUTS[1]
    shutil.copy(folder / "case_0.mha", folder / "case_1.mha")
    with pytest.raises(SystemExit, match=r"t2-mri must hold one image.*holds 2"):
        run_inference()
    shutil.rmtree(folder)
    with pytest.raises(SystemExit, match=r"t2-mri must hold one image.*holds 0"):
        run_inference()
    shutil.rmtree(written / "model")
    with pytest.raises(SystemExit, match="model holds no model"):
        run_inference()
    assert not (tmp_path / "output").exists()


HEADINGS = ["Summary", "Mechanism", "Validation and Performance", "Declaration of data", "Uses and Directions"]


def test_the_card_has_the_platforms_headings_and_says_what_a_case_takes(data, not_run, tmp_path):
    model = train(data, reference="somewhere", licence="CC0")
    summary = {"metric_per_case": [{}] * 3, "foreground_mean": {"Dice": 0.8765}}
    (model / "fold_1" / "validation").mkdir()
    (model / "fold_1" / "validation" / "summary.json").write_text(json.dumps(summary))
    card = (export(model, tmp_path / "submission").folder / "README.md").read_text()
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert headings == [*HEADINGS, "Warnings", "Common Error Messages"]
    assert "12 s, 1.0 GiB of memory on CPU, for 20 × 24 × 5 voxels" in card
    assert f"| {model.name} | 1 | 3 | 0.876 |" in card
    assert "6 cases of Dataset950_Small; reference: somewhere; licence: CC0" in card
    assert "0 background, 1 first, 2 second" in card
    assert "folds 0, 1: No synthetic data: nnUNetTrainer is nnU-Net's own" in card


def test_the_card_declares_synthetic_pairs_and_what_is_unknown(data, not_run, tmp_path):
    model = train(data, folds=("0", "1", "2"), trainer="nnUNetTrainerSynth")
    rng = np.random.default_rng(0)
    bank = make_bank(data, rng.normal(size=(4, 2, 16, 16)), rng.integers(0, 3, (4, 16, 16)))
    record_use(model / "fold_0", "nnUNetTrainerSynth", 0, SynthSettings(), [bank])
    record_use(model / "fold_1", "nnUNetTrainerSynth", 0, SynthSettings(ratio=0), [])
    submission = export(model, tmp_path / "submission").folder
    card = (submission / "README.md").read_text()
    assert "fold 0: Of the training draws (linear), a fraction of 0.25 from bank 'known': 4 samples, seed 3" in card
    assert "fold 1: No synthetic data (ratio 0)." in card
    assert "fold 2: Unknown: " in card
    record = json.loads((submission / "model" / model.name / "synthetic_data.json").read_text())
    assert record["folds"]["0"]["uses"][0]["banks"][0]["name"] == "known"
    assert "Unlabelled: none recorded" in card


def test_the_card_declares_unlabelled_scans_that_entered(data, not_run, tmp_path):
    model, rng = train(data, folds=("0",), trainer="nnUNetTrainerSynth"), np.random.default_rng(0)
    bank = make_bank(data, rng.normal(size=(4, 2, 16, 16)), rng.integers(0, 3, (4, 16, 16)))
    scans = (
        LabelledScan(name="entered", image_sha256="0" * 64),
        LabelledScan(name="kept_out", image_sha256="1" * 64, refused="anatomy: too large"),
    )
    teacher = Teacher(path="/x/nnUNetTrainer__nnUNetPlans__2d", sha256="2" * 64, configuration="2d")
    record = BankRecord.load(bank / RECORD_FILE)
    origin = PseudoLabels(scans=scans, teachers=(teacher,))
    record.model_copy(update={"origin": origin}).save(bank / RECORD_FILE)
    record_use(model / "fold_0", "nnUNetTrainerSynth", 0, SynthSettings(), [bank])
    scans_of_generator = ScanSource(
        bank="pseudo", record_sha256="3" * 64, cases=("learnt_from",), sha256=("4" * 64,), evaluation_cases=()
    )
    source = record.source.model_copy(update={"scans": scans_of_generator})
    record.model_copy(update={"source": source}).save(bank / RECORD_FILE)
    record_use(model / "fold_0", "nnUNetTrainerSynth", 5, SynthSettings(ratio=0.5), [bank])
    card = (export(model, tmp_path / "submission").folder / "README.md").read_text()
    assert "Unlabelled: bank 'known', 1 scan with labels of nnU-Nets: entered." in card
    assert "Unlabelled: bank 'known', 1 scan from which generators learnt: learnt_from." in card
    assert "kept_out" not in card


def test_what_dataset_json_keeps_of_a_record_is_declared(data, not_run, tmp_path):
    """nnU-Net's zip has no record, but dataset.json has the card of an exported model."""
    model = train(data, folds=("0",))
    record_use(model / "fold_0", "nnUNetTrainerSynth", 0, SynthSettings(ratio=0), [])
    exported = export_model(model, tmp_path / "results").folder
    (exported / "fold_0" / "synthetic_data.json").unlink()
    card = (export(exported, tmp_path / "submission").folder / "README.md").read_text()
    assert "fold 0: No synthetic data (ratio 0)." in card
    change(exported / "dataset.json", synthetic_data="5 of the training cases; synthetic.json lists them")
    card = (export(exported, tmp_path / "other").folder / "README.md").read_text()
    assert "Synthetic: 5 of the training cases" in card
    assert "fold 0: Unknown" in card


def test_the_values_of_regions_are_said(data, not_run, tmp_path):
    regions = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    model = train(data, labels=regions, regions_class_order=[1, 2])
    card = (export(model, tmp_path / "submission").folder / "README.md").read_text()
    assert "The values of the output are 0 background, 1 whole, 2 core." in card


@pytest.mark.parametrize("options", [(), ({"labels_or_regions": [1, 2]}, {"labels_or_regions": 1})])
def test_what_nnunet_recommends_is_followed(data, not_run, tmp_path, options):
    models = [train(data, folds=("0", "1", "2"), trainer=name) for name in ("nnUNetTrainer", "nnUNetTrainerOther")]
    recommend(models[0].parent, models[1:], options=options)
    done = export(models, tmp_path / "one")
    assert list(done.members.models) == [models[1].name]
    assert list(done.members.first.folds) == ["fold_0", "fold_1"]
    path = done.folder / "model" / "postprocessing.json"
    assert (json.loads(path.read_text()) if path.exists() else []) == list(options)
    assert models[1].name in done.members.notes[0]
    card = (done.folder / "README.md").read_text()
    assert "0.700 before postprocessing, 0.800 after it" in card
    assert str(tmp_path) not in card
    recommend(models[0].parent, models, options=options)
    assert set(export(models, tmp_path / "both").members.models) == {model.name for model in models}
    other = export(models[0], tmp_path / "other")
    assert list(other.members.first.folds) == ["fold_0", "fold_1", "fold_2"]
    assert not (other.folder / "model" / "postprocessing.json").exists()
    assert "no postprocessing" in other.members.notes[0]


def test_unfinished_folds_and_fold_all_besides_others_are_left_out(data, not_run, tmp_path):
    model = train(data, folds=("0", "1", "all"))
    path = model / "fold_1" / "checkpoint_final.pth"
    path.rename(path.with_name("checkpoint_best.pth"))
    done = export(model, tmp_path / "submission")
    assert list(done.members.first.folds) == ["fold_0"]
    assert "fold_1" in done.members.notes[-1]
    assert "fold_all" in done.members.notes[-1]
    shutil.rmtree(model / "fold_0")
    assert list(export(model, tmp_path / "all").members.first.folds) == ["fold_all"]
    (model / "fold_all" / "checkpoint_final.pth").rename(model / "fold_all" / "checkpoint_latest.pth")
    with pytest.raises(UserError, match=r"no finished fold.*--c"):
        export(model, tmp_path / "none")


@pytest.mark.parametrize(
    ("inputs", "output", "said"),
    [
        (("images/T1 MRI", INPUTS[1]), OUTPUT, "images/t1-mri"),
        (("t1-mri", INPUTS[1]), OUTPUT, "Did you mean images/t1-mri"),
        (INPUTS, "images/../lesions", "images/lesions"),
        (INPUTS, "images/läsionen", "images/l-sionen"),
        ((INPUTS[0], INPUTS[0]), OUTPUT, "--input is given twice"),
        (INPUTS[:1], OUTPUT, "has 2 files.*channel 0, channel 1.*--input"),
    ],
)
def test_interfaces_that_no_challenge_has_are_refused(data, not_run, tmp_path, inputs, output, said):
    with pytest.raises(UserError, match=said):
        export(train(data), tmp_path / "out" / "submission", inputs, output)
    assert not (tmp_path / "out").exists()


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cascade(model):
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"
    change(model / "plans.json", **plans)


def of_another_trainer(model):
    path = model / "fold_1" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"trainer_name": "Mine"}, path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cascade, "cascade"),
        (lambda model: change(model / "plans.json", image_reader_writer="Tiff3DIO"), "Tiff3DIO"),
        (of_another_trainer, "no trainer Mine.*export-model .*--trainer"),
        (lambda model: (model / "plans.json").unlink(), "model folder"),
        (lambda model: recommend(model.parent, [model], folds=(0, 5)), r"fold_5.checkpoint_final\.pth"),
        (lambda model: (model.parent / "inference_information.json").write_text("{}"), "find_best_configuration"),
        (lambda model: shutil.rmtree(model.parents[2] / "nnUNet_raw"), "nnUNet_raw"),
    ],
)
def test_a_model_that_cannot_be_submitted_is_refused_and_nothing_stays(data, not_run, tmp_path, spoil, said):
    model = train(data)
    spoil(model)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=said):
        export(model, tmp_path / "out" / "submission")
    assert not list((tmp_path / "out").iterdir())


def test_models_that_form_no_ensemble_are_refused(data, not_run, tmp_path):
    model = train(data)
    with pytest.raises(UserError, match="given twice"):
        export([model, model], tmp_path / "submission")
    other = train(data, trainer="nnUNetTrainerOther", labels={"background": 0, "second": 1, "first": 2})
    with pytest.raises(UserError, match="'labels'"):
        export([model, other], tmp_path / "submission")


def test_nnunets_zip_is_that_of_its_own_command(data, tmp_path, run_here):
    model, target = train(data), tmp_path / "out" / "model.zip"
    options = ["export-submission", str(model), "-o", str(target), "--format", "nnunet-zip"]
    for fold in ("fold_0", "fold_1"):
        assert run_here("nnunet-synth", *options)[0] == 2
        assert not list(target.parent.iterdir())
        (model / fold / "progress.png").write_bytes(b"")
        (model / fold / "validation").mkdir()
        (model / fold / "validation" / "summary.json").write_text("{}")
    code, printed, _ = run_here("nnunet-synth", *options)
    assert code == 0
    assert "nnUNetv2_install_pretrained_model_from_zip model.zip" in printed
    with zipfile.ZipFile(target) as archive:
        names = {Path(name).relative_to(Path(NAME, model.name)).as_posix() for name in archive.namelist()}
    of_fold = {"checkpoint_final.pth", "progress.png", "validation/summary.json"}
    files = {f"{fold}/{name}" for fold in ("fold_0", "fold_1") for name in of_fold}
    assert names == files | {"plans.json", "dataset.json", "dataset_fingerprint.json"}
    assert os.environ["nnUNet_results"] == str(tmp_path / "nnUNet_results")  # noqa: SIM112
    assert [path.name for path in target.parent.iterdir()] == ["model.zip"]
    code, _, error = run_here("nnunet-synth", *options)
    assert code == 2
    assert "exists" in error


def test_the_container_needs_its_interface(tmp_path, run_here):
    code, _, error = run_here("nnunet-synth", "export-submission", "model", "-o", str(tmp_path / "out"))
    assert code == 2
    assert "--input" in error


def test_an_existing_folder_and_an_example_that_fails_are_said_and_nothing_stays(data, tmp_path, monkeypatch):
    model, target = train(data), tmp_path / "out" / "submission"
    target.mkdir(parents=True)
    with pytest.raises(UserError, match=r"exists.*-o"):
        export(model, target)
    target.rmdir()
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -KILL $$")
    killed.chmod(0o755)
    for python, said in ((shutil.which("false"), "code 1 on the example. It printed"), (killed, "-9.*more memory")):
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(UserError, match=said):
            export(model, target)
    assert not list((tmp_path / "out").iterdir())
