"""What is released: files of wheel and sdist, one version everywhere; the workflow that tests it on each Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from nnunet_synth.benchmark.arms import tomllib
from stylegan2_cond.ops.build import NAME, SHIPPED

ROOT = Path(__file__).parent.parent
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("nnunet_synth", "stylegan2_cond")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])"


def tracked() -> list[str]:
    """Files that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked sdist."""
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build("sdist", copy, folder)
    with tarfile.open(next(folder.iterdir())) as archive:
        archive.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def build(what: str, source: Path, folder: Path) -> None:
    """Build a wheel or sdist without the network."""
    done = subprocess.run([sys.executable, "-c", BUILD, what, folder], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_sdist_has_what_the_wheel_needs_and_no_tests(sdist):
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    needed = (*PACKAGES, "pyproject", "LICENSE", "README", "CHANGELOG", "CITATION")
    assert {name for name in tracked() if name.startswith(needed)} <= names
    assert not {name for name in names if name.startswith(("tests", "studies", "examples", "docs"))}


def test_a_wheel_of_the_sdist_has_every_file_of_the_packages_and_the_cuda_library_once_built(sdist, tmp_path):
    tree = shutil.copytree(sdist, tmp_path / "tree")
    library, log = (SHIPPED.relative_to(ROOT) / "cuda_0123" / name for name in (f"{NAME}.so", "build.log"))
    (tree / library).parent.mkdir(parents=True)
    for path in (library, log):
        (tree / path).touch()
    build("wheel", tree, tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {*(name for name in tracked() if name.startswith(PACKAGES)), library.as_posix()}


def test_one_version_is_released():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest, day = re.search(r"^## \[(.*?)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M).groups()
    assert citation["version"] == newest == PROJECT["version"]
    assert str(citation["date-released"]) == day


def test_citation_and_archive_say_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    archive = json.loads((ROOT / ".zenodo.json").read_text())
    assert archive["creators"] == citation["authors"] == PROJECT["authors"]
    assert archive["title"] == citation["title"] == PROJECT["name"]
    assert archive["license"] == citation["license"] == PROJECT["license"]
    assert archive["keywords"] == citation["keywords"] == PROJECT["keywords"]


def test_the_workflow_tests_each_declared_python_by_targets_that_exist():
    declared = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    workflow = yaml.safe_load(WORKFLOWS["tests"])["jobs"]["make"]
    matrix = workflow["strategy"]["matrix"]
    assert matrix["python"] == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {*matrix["target"], *(job["target"] for job in matrix["include"])} <= set(targets.split())
    assert workflow["steps"][-1]["run"] == "make ${{ matrix.target }}"


def test_workflows_may_read_alone_and_know_no_secret():
    for text in WORKFLOWS.values():
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
        assert not re.search(r"secrets\b|token: *\S*\$|password:", text)
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@\S+", action) for action in re.findall(r"uses: (\S+)", text))


def test_a_published_release_goes_to_pypi_by_trusted_publishing(tmp_path):
    workflow = yaml.safe_load(WORKFLOWS["publish"])
    assert workflow[True] == {"release": {"types": ["published"]}}  # YAML 1.1 reads `on` as true
    build, publish = (workflow["jobs"][name] for name in ("build", "publish"))
    assert (publish["needs"], publish["permissions"]) == ("build", {"id-token": "write"})
    assert publish["environment"]["name"] == "pypi"
    upload, (download, pypi) = build["steps"][-1], publish["steps"]
    assert upload["with"] == download["with"]
    assert pypi["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in pypi
    (check,) = (step["run"] for step in build["steps"] if step.get("name") == "The tag is the version")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"nnunet_synth-{PROJECT['version']}-py3-none-any.whl").touch()
    for tag, code in ((f"v{PROJECT['version']}", 0), ("v0.0.0", 1)):
        shell = subprocess.run(["bash", "-c", check], cwd=tmp_path, env=os.environ | {"GITHUB_REF_NAME": tag})
        assert shell.returncode == code


def test_the_image_has_a_torch_that_pip_keeps():
    release = re.search(r"^FROM pytorch/pytorch:([\d.]+)-", (ROOT / "Dockerfile").read_text(), flags=re.M)[1]
    needed = [Requirement(text) for text in [*PROJECT["dependencies"], *requires("nnunetv2")]]
    torch = [need for need in needed if need.name == "torch" and not need.marker]
    assert len(torch) == 2
    assert all(release in need.specifier for need in torch)
