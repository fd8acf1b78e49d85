"""What a submission predicts under a platform's limits is, voxel for voxel, what nnU-Net's own commands predict."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import run
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from raw_cases import configuration_of
from raw_files import NAME, Format, case_files, dataset
from test_export_submission import recommend, train

from nnunet_synth.export.submission.requirements import pin_requirements
from nnunet_synth.export.submission.write import export_submission

NOBODY = "65534"
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
OPTIONS = ({"labels_or_regions": [1, 2]}, {"labels_or_regions": 2})
SINGLE = ("-device", "cpu", "-npp", "1", "-nps", "1")
# A network without any device, 64 KiB of shared memory, 128 processes, 16 GiB of addresses, and a user without rights.
LIMITED = f"""
set -e
mount -t tmpfs -o size=64k,mode=1777 tmpfs /dev/shm
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs bash -c '
ulimit -u 128
ulimit -v 16777216
exec "$@"' limited "$@"
"""
STYLES = {
    "channels, resampled": Format("SimpleITKIO", ".nii.gz"),
    "volumes, reoriented": Format("NibabelIOWithReorient", ".nii.gz", configuration=3, transpose=(1, 0, 2)),
    "rgb": Format("NaturalImage2DIO", ".png", dims=2, channels=3, in_one_file=True, dtype="uint8"),
    "grey": Format("NaturalImage2DIO", ".png", dims=2, channels=1, dtype="uint16", scheme="ZScoreNormalization"),
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder that all users may read, with a copy of Python and links to the packages of `requirements.txt` alone."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "setpriv"))):
        pytest.skip("only root can make namespaces and become another user, with unshare and setpriv")
    folder = Path(tempfile.mkdtemp(prefix="elsewhere_"))
    folder.chmod(0o755)
    library, packages = (Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib"))
    ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__")
    shutil.copytree(library, folder / "lib" / library.name, symlinks=True, ignore=ignored)
    (folder / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), folder / "bin" / "python")
    shared = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("LDLIBRARY"))
    if shared.suffix != ".a":  # Python itself may be a shared library
        shutil.copy(shared, folder / "lib")
        shutil.copy(shared, folder / "lib" / f"{shared.name}.1.0")
    (site := folder / "lib" / library.name / "site-packages").mkdir()
    of_torch = [needed for needed in metadata.requires("torch") if "extra ==" not in needed]  # it pins these itself
    pinned = {line.partition("==")[0] for name in ("nnunetv2", *of_torch) for line in pin_requirements(name)}
    for name in {file.parts[0] for package in pinned for file in metadata.files(package)} - {"..", "__pycache__"}:
        (site / name).symlink_to(packages / name)
    yield folder
    shutil.rmtree(folder)


def run_limited(folder, *arguments, **variables):
    """Run the copied Python under the limits."""
    command = [str(folder / "bin" / "python"), "-I", "-B", *arguments]
    environment = {"LD_LIBRARY_PATH": str(folder / "lib"), "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", LIMITED, "limited", *command],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in variables.items()},
    )


def predict(data, model, source, target, *options):
    """Label maps, and probabilities on request, by nnU-Net's own command with the folds 0 and 1."""
    trainer, plans, configuration = model.name.split("__")
    names = ["-d", NAME, "-tr", trainer, "-p", plans, "-c", configuration, "-f", "0", "1"]
    run("nnUNetv2_predict", "-i", str(source), "-o", str(target), *names, *SINGLE, *options)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def changed(data, name=None, **changes):
    """The same data with other settings of a configuration, or with another configuration."""
    name = name or data.configuration_name
    plans = json.loads(json.dumps(data.plans_manager.plans))
    before = plans["configurations"].get(name) or next(iter(plans["configurations"].values()))
    plans["configurations"][name] = before | changes
    return replace(data, configuration_name=name, plans_manager=PlansManager(plans))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Makes a raw dataset and a folder with the images of its first case, where nnU-Net's variables point."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))

    def make(style):
        data = dataset(tmp_path, style)
        (tmp_path / "images").mkdir()
        for path in case_files(tmp_path / "nnUNet_raw" / NAME, "case_0", style)[0]:
            shutil.copy(path, tmp_path / "images")
        return data

    return make


def submit_and_run(models, inputs, elsewhere):
    """The label map of an exported submission under the limits, and what it printed."""
    folder = Path(tempfile.mkdtemp(dir=elsewhere)) / "submission"
    folder.parent.chmod(0o755)
    export_submission(models, folder, inputs, "images/lesions")
    (output := folder.parent / "output").mkdir()
    output.chmod(0o777)
    places = {"INPUT_PATH": folder / "test/input/interf0", "OUTPUT_PATH": output, "MODEL_PATH": folder / "model"}
    before = sorted(folder.rglob("*"))
    done = run_limited(elsewhere, str(folder / "inference.py"), **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(folder.rglob("*")) == before
    found = read(output / "images" / "lesions" / "output.mha")
    np.testing.assert_array_equal(found, read(folder / "test/expected_output/interf0/images/lesions/output.mha"))
    return found, done.stdout


@pytest.mark.slow
def test_this_project_is_not_there_and_nothing_may_be_written(elsewhere):
    for package in ("nnunet_synth", "stylegan2_cond", "pytest"):
        done = run_limited(elsewhere, "-c", f"import {package}")
        assert f"No module named '{package}'" in done.stderr
    for code, said in (
        ("import os; open(os.__file__, 'a')", "Permission denied"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "Network is unreachable"),
        (
            "import threading, time; [threading.Thread(target=time.sleep, args=(9,)).start() for _ in range(200)]",
            "start",
        ),
        ("bytearray(2**35)", "MemoryError"),
    ):
        done = run_limited(elsewhere, "-c", code)
        assert said in done.stderr, (code, done)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STYLES)
def test_two_folds_predict_what_nnunets_command_predicts(world, elsewhere, tmp_path, kind):
    style = STYLES[kind]
    data = world(style)
    if "resampled" in kind:
        data = changed(data, spacing=[0.7, 1.1])
    model = train(data)
    predict(data, model, tmp_path / "images", tmp_path / "predicted")
    inputs = [f"images/channel-{number}" for number, _ in enumerate((tmp_path / "images").iterdir())]
    found, printed = submit_and_run([model], inputs, elsewhere)
    expected = read(tmp_path / "predicted" / f"case_0{style.ending}")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)
    assert json.loads(printed.splitlines()[-1])["memory"] > 2**27


@pytest.mark.slow
def test_an_ensemble_of_configurations_with_regions_is_what_nnunets_commands_make(world, elsewhere, tmp_path):
    data = world(Format("SimpleITKIO", ".nii.gz"))
    in_3d = configuration_of(2, 3) | {"patch_size": [4, 16, 16], "spacing": [2.0, 0.8, 1.2]}
    volumes = changed(data, "3d_fullres", **in_3d)
    models = [
        train(one, seed=seed, **REGIONS)
        for seed, one in enumerate((volumes, replace(volumes, configuration_name="2d")))
    ]
    recommend(models[0].parent, models, options=OPTIONS)
    for number, model in enumerate(models):
        predict(data, model, tmp_path / "images", tmp_path / f"predicted_{number}", "--save_probabilities")
    folders = [str(tmp_path / f"predicted_{number}") for number in range(2)]
    run("nnUNetv2_ensemble", "-i", *folders, "-o", str(tmp_path / "ensemble"), "-np", "1")
    file = tmp_path / "postprocessing.pkl"
    functions = [remove_all_but_largest_component_from_segmentation] * len(OPTIONS)
    file.write_bytes(pickle.dumps((functions, list(OPTIONS))))
    plans = ["-pp_pkl_file", str(file), "-np", "1", "-plans_json", str(models[0] / "plans.json")]
    run("nnUNetv2_apply_postprocessing", "-i", str(tmp_path / "ensemble"), "-o", str(tmp_path / "final"), *plans)
    expected = read(tmp_path / "final" / "case_0.nii.gz")
    assert set(np.unique(expected)) == {0, 1, 2}
    assert (expected != read(tmp_path / "ensemble" / "case_0.nii.gz")).any()
    np.testing.assert_array_equal(submit_and_run(models, ("images/a", "images/b"), elsewhere)[0], expected)
