"""Building the kernels: once, by one process, reported when it fails; what doctor prints; CUDA's compiler."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from stylegan2_cond.cli import main
from stylegan2_cond.folders import lock_folder
from stylegan2_cond.ops import bindings, build, choose_backend
from stylegan2_cond.ops.bindings import Library
from stylegan2_cond.ops.doctor import diagnose

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no memory of what was found before."""
    monkeypatch.setenv("STYLEGAN2_COND_CACHE", str(tmp_path))
    bindings.find_library.cache_clear()
    yield tmp_path
    bindings.find_library.cache_clear()


@pytest.fixture
def compiled(monkeypatch):
    """Compiling takes no time, and is counted."""
    calls = []

    def compile_at_once(kind, folder):
        calls.append(kind)
        build.library_path(kind).write_bytes(b"a library")
        return build.library_path(kind)

    monkeypatch.setattr(build, "build_library", compile_at_once)
    return calls


def test_a_library_is_built_at_first_use_in_a_process_of_its_own_and_then_found(cache, capfd):
    before = dict(os.environ)
    first = build.find_or_build("cpu")
    assert isinstance(first, Path)
    assert os.environ == before
    assert "Building the cpu ops, once" in capfd.readouterr().err
    assert build.find_or_build("cpu") == first
    assert capfd.readouterr().err == ""
    assert isinstance(Library(first), Library)
    assert not (first.parent / "work").exists()


def test_importing_the_ops_builds_nothing(cache):
    subprocess.run([sys.executable, "-c", "import stylegan2_cond.ops"], check=True)
    assert not list(cache.iterdir())


def test_many_who_want_it_at_once_build_it_once(cache, compiled):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: build.find_or_build("cpu"), range(8)))
    assert len(found) == 1
    assert compiled == ["cpu"]


def test_whoever_waits_for_a_build_waits_until_it_is_done_or_given_up():
    assert build.LOCK_SECONDS > build.BUILD_SECONDS


def test_a_lock_that_is_held_for_too_long_names_its_holder(cache, compiled, monkeypatch):
    monkeypatch.setattr(build, "LOCK_SECONDS", 0.1)
    folder = build.build_folder("cpu")
    with lock_folder(folder):
        assert f"process {os.getpid()} on {socket.gethostname()}" in build.find_or_build("cpu")
    assert compiled == []


def test_a_failure_is_reported_in_one_line_and_remembered_until_asked_again(cache, monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\ncase $* in *version*) g++ $*;; *) echo no such header >&2; exit 1;; esac\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    message = build.find_or_build("cpu")
    log = build.build_folder("cpu") / "build.log"
    assert str(log) in message
    assert "doctor --build" in message
    assert "\n" not in message
    assert "no such header" in log.read_text()
    assert choose_backend("cpu") == "native"
    with pytest.raises(RuntimeError, match="building the cpu ops failed"):
        choose_backend("cpu", "cpu")
    monkeypatch.setattr(build, "build_library", lambda *_: "built again")
    assert build.find_or_build("cpu") == message
    assert build.find_or_build("cpu", again=True) == "built again"


def _obtain_elsewhere(folder):
    os.environ["STYLEGAN2_COND_CACHE"] = folder
    return build.find_or_build("cpu")


def test_a_worker_process_never_builds_but_uses_what_is_there(cache, compiled):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "a worker process does not build" in pool.apply(_obtain_elsewhere, (str(cache),))
        build.find_or_build("cpu")
        assert pool.apply(_obtain_elsewhere, (str(cache),)) == build.library_path("cpu")
    assert compiled == ["cpu"]


@pytest.mark.parametrize("change", ["source", "compiler", "torch", "processor"])
def test_other_sources_tools_or_processors_want_another_library(cache, monkeypatch, tmp_path, change):
    before = build.build_folder("cpu")
    if change == "source":
        sources = shutil.copytree(build.SOURCES, tmp_path / "sources")
        (sources / "cpu.cpp").write_text("// other")
        monkeypatch.setattr(build, "SOURCES", sources)
    elif change == "compiler":
        monkeypatch.setenv("CXX", "clang++")
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    else:
        monkeypatch.setattr(build, "cpu_info", lambda *fields: "another")
    assert build.build_folder("cpu") != before


def test_a_library_that_is_built_is_used_where_no_tools_are(cache, compiled, monkeypatch):
    built = build.find_or_build("cpu")
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.setattr(sys, "executable", str(cache / "python"))
    assert build.missing_tools("cpu")
    assert build.find_built("cpu") == build.find_or_build("cpu") == built


def test_what_is_missing_to_build_with_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler 'no-such-compiler'" in build.find_or_build("cpu")
    if not torch.cuda.is_available():
        assert build.find_or_build("cuda") == "torch sees no CUDA device."


@pytest.mark.parametrize(("variable", "wanted", "chosen"), [("native", None, "native"), ("cpu", None, "cpu")])
def test_the_environment_chooses_a_backend_and_an_argument_overrules_it(monkeypatch, variable, wanted, chosen):
    monkeypatch.setenv("STYLEGAN2_COND_OPS", variable)
    assert choose_backend("cpu", wanted) == chosen
    assert choose_backend("cpu", "native") == "native"
    assert choose_backend("meta", "cpu") == "native"


def test_an_unknown_backend_is_answered_by_those_that_are_known(monkeypatch):
    monkeypatch.setenv("STYLEGAN2_COND_OPS", "gpu")
    with pytest.raises(ValueError, match=r"'gpu'.*auto, cuda, cpu, native"):
        choose_backend("cpu")


# --- doctor


def test_doctor_shows_versions_and_the_state_of_each_backend(cache, compiled, run_here):
    code, message, _ = run_here("stylegan2-cond", "doctor")
    assert code == 0
    assert torch.__version__ in message
    assert "cpu ops     not built yet" in message
    assert "native for cpu tensors, until" in message
    assert json.loads(run_here("stylegan2-cond", "doctor", "--json")[1])["torch"].startswith(torch.__version__)
    assert compiled == []
    lines, well = diagnose(build=True)
    assert dict(lines)["cpu ops"] == f"built: {build.library_path('cpu')}"
    assert well
    assert "cpu" in compiled  # and cuda, where nvcc is


def test_doctor_ends_with_code_1_where_building_fails(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", "doctor", "--build"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "no-such-compiler" in capsys.readouterr().out


# --- CUDA's compiler


@pytest.fixture
def no_gpu(monkeypatch):
    """As on a login node: torch is made for CUDA, and sees no device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def make_nvcc(home):
    """A compiler that writes down what it is asked, and makes a file."""
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f'#!/bin/sh\necho "$@" >> {home}/asked\nwhile [ "$1" != -o ]; do shift; done\ntouch "$2"\n')
    nvcc.chmod(0o755)
    return home


@pytest.mark.skipif(shutil.which("sh") is None or shutil.which(build.compiler()) is None, reason="no sh, or compiler")
def test_cuda_kernels_are_built_for_all_gpus_even_where_none_is_but_only_on_request(
    cache, no_gpu, monkeypatch, tmp_path
):
    home = make_nvcc(tmp_path / "toolkit")
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert build.find_or_build("cuda") == "torch sees no CUDA device."
    assert not (home / "asked").exists()
    built = build.find_or_build("cuda", again=True)
    assert built == build.library_path("cuda")
    assert built.exists()
    (asked,) = (home / "asked").read_text().splitlines()
    assert "-arch=all-major" in asked.split()
    assert bindings.find_library("cuda") == "torch sees no CUDA device."


def test_cuda_kernels_are_found_again_without_tools_on_any_host_and_gpu(cache, no_gpu, monkeypatch, tmp_path):
    path = build.library_path("cuda")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a library")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(torch, "__version__", "0.0")
    monkeypatch.setattr(build, "cpu_info", lambda *fields: "another")
    assert build.find_or_build("cuda") == path
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert build.find_or_build("cuda") == path


def test_a_library_that_came_with_the_package_is_used(cache, no_gpu, monkeypatch, tmp_path):
    path = tmp_path / build.build_folder("cuda").name / f"{build.NAME}.so"
    path.parent.mkdir()
    path.write_bytes(b"a library")
    assert build.find_or_build("cuda") == "torch sees no CUDA device."
    monkeypatch.setattr(build, "SHIPPED", tmp_path)
    assert build.find_or_build("cuda") == path
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert build.find_or_build("cuda") == "torch sees no CUDA device."


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("13.0", 'or pip install "cuda-toolkit[nvcc,cudart]==13.0.*".'),
        ("12.8", "or set CUDA_HOME to it."),
        (None, "without CUDA."),
    ],
)
def test_a_missing_nvcc_is_answered_by_how_to_install_it(cache, monkeypatch, release, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", release)
    monkeypatch.setattr(build, "cuda_home", lambda: None)
    assert build.find_or_build("cuda").endswith(told)


def test_nvcc_is_found_among_pips_packages(monkeypatch, tmp_path):
    home = make_nvcc(tmp_path / "nvidia" / "cu99")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "TOOLKIT", tmp_path / "none")
    monkeypatch.syspath_prepend(tmp_path)
    assert build.cuda_home() == home


@pytest.mark.kernels
@pytest.mark.skipif(build.cuda_home() is None or torch.version.cuda is None, reason="nvcc is not installed")
def test_the_cuda_library_is_built_for_all_major_architectures_and_loads_without_a_gpu(cache):
    built = build.find_or_build("cuda", again=True)
    assert isinstance(built, Path), (build.build_folder("cuda") / "build.log").read_text()
    assert isinstance(Library(built), Library)
    needed = subprocess.run(["ldd", built], capture_output=True, text=True).stdout
    assert "cudart" not in needed
    assert "torch" not in needed
    code = built.read_bytes()
    known = subprocess.run([build.cuda_home() / "bin" / "nvcc", "--list-gpu-arch"], capture_output=True, text=True)
    majors = [number for number in ARCHITECTURES if number.endswith("0") and f"compute_{number}" in known.stdout]
    assert majors
    assert all(f"sm_{number}".encode() in code for number in majors)


@pytest.mark.skipif(build.cuda_home() is None, reason="nvcc is not installed")
@pytest.mark.parametrize("which", ["oldest and newest", pytest.param("every", marks=pytest.mark.kernels)])
def test_cuda_kernels_compile_for_architectures_without_a_warning(which, tmp_path):
    nvcc = build.cuda_home() / "bin" / "nvcc"
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [number for number in ARCHITECTURES if f"compute_{number}" in known]
    assert wanted
    wanted = wanted if which == "every" else {wanted[0], wanted[-1]}
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in wanted]
    strict = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    command = [nvcc, "-std=c++17", "-O0", "-Xcicc", "-O0", "-Xptxas", "-O0", *strict, "--threads", "2"]
    target = ["-c", build.SOURCES / "cuda.cu", "-o", tmp_path / "cuda.o"]
    done = subprocess.run([*command, *targets, *target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
