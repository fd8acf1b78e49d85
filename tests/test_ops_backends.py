"""Each library of kernels against plain PyTorch: every op, type, layout and derivative, at odd sizes."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import SANITIZED, bytes_moved, shim, use_library
from tiny import tiny_plan, tiny_state

from stylegan2_cond.ops import (
    Epilogue,
    backends,
    bias_act,
    choose_backend,
    describe_backend,
    downsample,
    modulated_conv,
    upsample,
)
from stylegan2_cond.ops import autograd as operators
from stylegan2_cond.ops.bias_act import apply_epilogue
from stylegan2_cond.ops.bindings import Library, find_library
from stylegan2_cond.ops.build import compiler

# In float32, n roundings of random sign add up to about √n · eps / 2; this is five times that for the longest sums, of
# 5000 terms. Half types round the result of each of some fifteen operations.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 8 * 2**-7, torch.float16: 8 * 2**-10}
SIZES = [(5, 7), (4, 8), (3, 4, 5), (9,), (1, 3), (17, 36)]
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
KERNELS = torch.ops.stylegan2_cond
LIBRARIES = ["cpu", pytest.param("shim"), pytest.param("cuda", marks=pytest.mark.gpu)]


def mark_of(name, dtype):
    """The shim is slow, so all types but one wait for `make test-kernels`; CUDA waits for a GPU."""
    if name == "cuda":
        return [pytest.mark.gpu]
    return [pytest.mark.kernels] if name == "shim" and dtype != torch.float32 else []


every_library = pytest.mark.parametrize("library", LIBRARIES, indirect=True)
every_type = pytest.mark.parametrize(
    ("library", "dtype"),
    [
        pytest.param(name, dtype, marks=mark_of(name, dtype), id=f"{name}-{str(dtype)[6:]}")
        for name in ("cpu", "shim", "cuda")
        for dtype in TOLERANCE
    ],
    indirect=["library"],
)
every_layout = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])


@pytest.fixture
def library(request, monkeypatch):
    """The device of a library that the ops now run on."""
    return use_library(monkeypatch, request.param)


def normal(*shape, seed=0, dtype=torch.float32, device="cpu", last=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)
    return x.contiguous(memory_format=LAST[len(shape) - 2]) if last and len(shape) - 2 in LAST else x


def full_epilogue(shape, dtype, device, **changes):
    """Everything that an epilogue can have; learnt vectors in the type that they are learnt in."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    made = {
        "bias": normal(shape[1], seed=1, dtype=wide, device=device).requires_grad_(),
        "scale": (normal(*shape[:2], seed=2, dtype=wide, device=device).abs() + 0.5).requires_grad_(),
        "noise": normal(shape[0], 1, *shape[2:], seed=3, dtype=dtype, device=device),
        "strength": torch.tensor(0.7, dtype=wide, device=device, requires_grad=True),
        "activation": "lrelu",
        "gain": 0.8,
    }
    return Epilogue(**made | changes)


def learnt(epilogue):
    return [tensor for tensor in (epilogue.bias, epilogue.scale, epilogue.strength) if tensor is not None]


def all_of(function, x, others, *, twice=True):
    """The result, its gradients, and the gradients of a nonlinear function of those."""
    x = x.detach().requires_grad_()
    y = function(x)
    weights = normal(*y.shape, seed=9, dtype=y.dtype, device=y.device)
    first = torch.autograd.grad((y.square() * weights).sum(), [x, *others], create_graph=twice)
    if not twice:
        return [y, *first]
    again = sum(
        (gradient.double() * normal(*gradient.shape, seed=8, device=y.device)).square().sum() for gradient in first
    )
    return [y, *first, *torch.autograd.grad(again, [x, *others], allow_unused=True, materialize_grads=True)]


def assert_same(found, expected, dtype):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        scale = theirs.double().abs().max().item() if theirs.numel() else 0.0
        summed = math.sqrt(expected[0].numel() / max(1, theirs.numel()))  # of random signs, they may cancel
        atol = TOLERANCE[dtype] * max(1.0, scale, summed)
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=atol)


def in_double(tensor):
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def doubled(epilogue):
    named = {name: getattr(epilogue, name) for name in ("bias", "scale", "noise", "strength")}
    kept = {name: getattr(epilogue, name) for name in ("activation", "gain")}
    return Epilogue(**{name: tensor if tensor is None else in_double(tensor) for name, tensor in named.items()}, **kept)


def away_from_kinks(x, epilogue):
    """Where float16 and float64 might fall on different sides of the kink, derivatives differ for good reason."""
    pre = Epilogue(**{**vars(epilogue), "activation": "linear", "gain": 1.0}).apply(x.double())
    return torch.where(pre.abs() < 0.05, x + 0.2, x)


def compare(function, x, epilogue, dtype):
    """`function(x, epilogue, backend)` by the library against the native meaning in float64."""
    mine = all_of(lambda x: function(x, epilogue, None), x, learnt(epilogue))
    exact = doubled(epilogue)
    theirs = all_of(lambda x: function(x, exact, "native"), x.double(), learnt(exact))
    assert_same(mine, theirs, dtype)


# --- bias_act


@every_type
@every_layout
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("size", [(5, 7), (4, 8), (3, 4, 5)], ids=str)
def test_bias_act_and_its_derivatives_are_the_native_ones(library, dtype, last, channels, size):
    shape = (2, channels, *size)
    epilogue = full_epilogue(shape, dtype, library)
    x = away_from_kinks(normal(*shape, dtype=dtype, device=library), epilogue)
    x = x.contiguous(memory_format=LAST[len(size)]) if last else x
    y = apply_epilogue(x, epilogue)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    compare(apply_epilogue, x, epilogue, dtype)


@every_library
@pytest.mark.parametrize("missing", ["bias", "scale", "noise", "activation"])
@every_layout
def test_what_an_epilogue_lacks_changes_nothing(library, missing, last):
    shape = (2, 5, 6, 7)
    changes = {"noise": {"noise": None, "strength": None}, "activation": {"activation": "linear"}}
    epilogue = full_epilogue(shape, torch.float64, library, **changes.get(missing, {missing: None}))
    compare(apply_epilogue, normal(*shape, dtype=torch.float64, device=library, last=last), epilogue, torch.float64)


@every_library
def test_vectors_are_taken_as_one_voxel_each(library):
    epilogue = full_epilogue((6, 5), torch.float64, library)
    compare(apply_epilogue, normal(6, 5, dtype=torch.float64, device=library), epilogue, torch.float64)


@every_library
@every_layout
def test_many_voxels_are_summed_in_chunks(library, last):
    shape = (1, 8, 70, 64) if last else (1, 2, 150, 256)
    x = normal(*shape, dtype=torch.float64, device=library, last=last)
    compare(apply_epilogue, x, full_epilogue(shape, torch.float64, library), torch.float64)


@every_library
@every_layout
def test_an_activation_is_overwritten_only_where_no_gradient_is_wanted(library, last):
    shape = (2, 5, 6, 7)
    x, epilogue = normal(*shape, device=library, last=last), full_epilogue(shape, torch.float32, library)
    expected, kept = apply_epilogue(x, epilogue, "native"), x.clone()
    y = apply_epilogue(x, epilogue, overwrite=True)
    assert y.data_ptr() != x.data_ptr()
    torch.testing.assert_close(x, kept, rtol=0, atol=0)
    with torch.no_grad():
        y = apply_epilogue(x, epilogue, overwrite=True)
    assert y.data_ptr() == x.data_ptr()
    torch.testing.assert_close(y, expected)


@every_library
def test_nan_stays_nan(library):
    x = torch.tensor([[[math.nan, 1.0, -1.0]]], device=library)
    y = bias_act(x)[0, 0]
    assert y[0].isnan()
    assert y[1:].tolist() == pytest.approx([math.sqrt(2), -0.2 * math.sqrt(2)])


@every_type
def test_an_empty_batch_gives_an_empty_result_and_no_gradients(library, dtype):
    x = normal(0, 3, 4, 5, dtype=dtype, device=library).requires_grad_()
    bias = torch.ones(3, device=library, requires_grad=True)
    y = upsample(bias_act(x, bias), (2, 2), (8, 10))
    assert y.shape == (0, 3, 8, 10)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not bias.grad.any()


@every_library
def test_gradients_for_noise_are_those_of_plain_pytorch(library):
    x, noise = normal(2, 3, 4, device=library), normal(2, 1, 4, seed=1, device=library).requires_grad_()
    strength = torch.tensor(0.5, device=library)
    y = bias_act(x, noise=noise, strength=strength)
    expected = bias_act(x, noise=noise, strength=strength, backend="native")
    gradients = [torch.autograd.grad(result.sum(), noise)[0] for result in (y, expected)]
    torch.testing.assert_close(*gradients)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 40),
    size=st.lists(st.integers(1, 18), min_size=1, max_size=3),
    last=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape_is_as_native(n, c, size, last, seed, monkeypatch):
    device = use_library(monkeypatch, "cpu")
    shape = (n, c, *size)
    epilogue = full_epilogue(shape, torch.float64, device)
    compare(apply_epilogue, normal(*shape, seed=seed, dtype=torch.float64, last=last), epilogue, torch.float64)


# --- resample


@every_type
@every_layout
@pytest.mark.parametrize("channels", [5, 8])  # 8 are whole vectors of any type
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_upsample_with_an_epilogue_is_the_native_one(library, dtype, last, size, channels):
    factors = (2, 1, 2)[: len(size)]
    large = tuple(length * factor - (factor > 1) for length, factor in zip(size, factors, strict=True))
    epilogue = full_epilogue((2, channels, *large), dtype, library, activation="linear")
    x = normal(2, channels, *size, dtype=dtype, device=library, last=last)

    def apply(x, epilogue, backend):
        return upsample(x, factors, large, epilogue=epilogue, backend=backend)

    compare(apply, x, epilogue, dtype)
    if not last or len(size) in LAST:
        assert upsample(x, factors, large).is_contiguous() == x.is_contiguous()


@every_library
@every_layout
def test_upsample_ends_in_any_activation(library, last):
    epilogue = full_epilogue((2, 6, 11, 14), torch.float64, library)
    x = normal(2, 6, 6, 7, dtype=torch.float64, device=library, last=last)

    def apply(x, epilogue, backend):
        return upsample(x, (2, 2), (11, 14), epilogue=epilogue, backend=backend)

    compare(apply, x, epilogue, torch.float64)


@every_type
@every_layout
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_downsample_is_the_native_one(library, dtype, last, size, channels):
    factors = (2, 3, 2)[-len(size) :]
    x = normal(2, channels, *size, dtype=dtype, device=library, last=last)
    mine = all_of(lambda x: downsample(x, factors), x, [])
    assert_same(mine, all_of(lambda x: downsample(x, factors, backend="native"), x.double(), []), dtype)


@every_library
def test_large_factors_and_many_channels_still_fit(library):
    x = normal(1, 40, 40, 40, device=library, last=True)
    mine = all_of(lambda x: downsample(x, (16, 16)), x, [])
    assert_same(mine, all_of(lambda x: downsample(x, (16, 16), backend="native"), x, []), torch.float32)


# --- modulated convolution


@every_library
@pytest.mark.parametrize("demodulate", [True, False])
@every_layout
def test_modulated_convolution_with_all_that_follows_is_the_native_one(library, demodulate, last):
    weight = normal(4, 3, 3, 3, seed=5, dtype=torch.float64, device=library).requires_grad_()
    style = normal(2, 3, seed=6, dtype=torch.float64, device=library).requires_grad_()
    epilogue = full_epilogue((2, 4, 9, 12), torch.float64, library, scale=None)
    x = normal(2, 3, 5, 6, dtype=torch.float64, device=library, last=last)

    def results(backend):
        options = {"demodulate": demodulate, "factors": (2, 2), "size": (9, 12)}
        function = lambda x: modulated_conv(x, weight, style, epilogue=epilogue, backend=backend, **options)  # noqa: E731
        return all_of(function, x, [weight, style, *learnt(epilogue)])

    assert_same(results(None), results("native"), torch.float64)


# --- operators of PyTorch


@pytest.mark.parametrize("library", ["cpu"], indirect=True)
def test_operators_keep_pytorchs_rules(library):
    shape, numbers = (2, 3, 4, 5), (0.2, 1.1)
    x, y = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    e = full_epilogue(shape, torch.float32, library)
    d, large = normal(*shape, seed=4), normal(2, 1, 8, 5)
    torch.library.opcheck(KERNELS.bias_act.default, (x, e.scale, e.bias, e.noise, e.strength, *numbers))
    torch.library.opcheck(KERNELS.bias_act_grad.default, (y, x, e.scale, e.noise, *numbers))
    torch.library.opcheck(
        KERNELS.bias_act_grad_grad.default, (d, normal(3, 2, 3), d, normal(*shape), e.scale.detach(), e.noise, *numbers)
    )
    torch.library.opcheck(KERNELS.scale.default, (x, e.scale))
    axes = [2, 1], [4, 5], [8, 5]  # factors, sizes before and after
    torch.library.opcheck(
        KERNELS.resample.default, (x, "linear", *axes, False, e.scale, e.bias, large, e.strength, *numbers)
    )


@pytest.mark.parametrize("library", ["cpu"], indirect=True)
def test_autocast_leaves_the_type_of_the_activation_and_sums_in_float32(library):
    x, bias = normal(2, 3, 4, 5, dtype=torch.bfloat16), torch.zeros(3, requires_grad=True)
    with torch.autocast(library, torch.bfloat16):
        y = bias_act(x, bias)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert bias.grad.dtype == torch.float32


@pytest.mark.parametrize("library", ["cpu"], indirect=True)
def test_ops_are_compiled_whole(library):
    bias = normal(3, seed=1).requires_grad_()

    def block(x, bias):
        return downsample(upsample(bias_act(x, bias), (2, 2), (8, 10)).square(), (2, 2)).sum()

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = normal(2, 3, 4, 5).requires_grad_()
    found = torch.autograd.grad(compiled(x, bias), [x, bias])
    torch.testing.assert_close(found, torch.autograd.grad(block(x, bias), [x, bias]))


@pytest.mark.parametrize("library", ["cpu"], indirect=True)
def test_a_plain_training_step_runs_compiled(library):
    state = tiny_state(tiny_plan())
    generator, discriminator = state.generator, state.discriminator
    n, plan = 4, state.plan
    z, condition = normal(n, plan.latent_dim), torch.zeros(n, plan.conditions.width)
    noises = [normal(n, 1, *size) for size in generator.synthesis.noise_sizes]

    def loss():
        pairs = plan.codec.activate(generator(z, condition, noises))
        return torch.nn.functional.softplus(-discriminator(pairs, condition)[0]).mean()

    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(loss(), parameters)
    found = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("library", ["cpu"], indirect=True)
def test_the_gradient_penalty_takes_no_pass_for_gradients_that_are_zero(library, monkeypatch):
    called = []
    call = operators._call
    monkeypatch.setattr(operators, "_call", lambda name, *arguments: called.append(name) or call(name, *arguments))
    x, bias = normal(2, 3, 4, 5).requires_grad_(), normal(3, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(bias_act(x, bias).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert "bias_act_grad_grad" not in called
    expected = x.detach().clone().requires_grad_()
    loss = bias_act(expected, bias, backend="native").square().sum()
    (gradient,) = torch.autograd.grad(loss, expected, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), expected)
    torch.testing.assert_close(x.grad, second)


# --- bad input


@pytest.mark.parametrize("backend", ["native", "cpu"])
@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "2 to 5 axes", lambda **b: bias_act(torch.zeros(3), **b)),
        (ValueError, "neither contiguous nor channels_last", lambda **b: bias_act(torch.zeros(4, 4, 6)[..., ::2], **b)),
        (ValueError, "unknown activation 'swish'", lambda **b: bias_act(torch.zeros(1, 1), activation="swish", **b)),
        (ValueError, r"bias must be \[3\]", lambda **b: bias_act(torch.zeros(2, 3), torch.zeros(2), **b)),
        (ValueError, "go together", lambda **b: bias_act(torch.zeros(2, 3), noise=torch.zeros(2, 1), **b)),
        (ValueError, "gain must be positive", lambda **b: bias_act(torch.zeros(2, 3), gain=-1.0, **b)),
        (TypeError, "int64", lambda **b: bias_act(torch.zeros(2, 3, dtype=torch.int64), **b)),
        (TypeError, "bias is torch.float64", lambda **b: bias_act(torch.zeros(2, 3), torch.zeros(3).double(), **b)),
        (ValueError, "3 to 5 axes", lambda **b: upsample(torch.zeros(1, 4), (2,), (8,), **b)),
    ],
)
def test_bad_input_is_refused_alike_by_every_backend(backend, error, words, call):
    with pytest.raises(error, match=words):
        call(backend=backend)


# --- memory


def least_bytes(*tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("library", ["shim"], indirect=True)
@every_layout
@pytest.mark.parametrize(
    ("op", "most"),  # contiguous and channels_last
    [
        ("bias_act", (1.7, 1.7)),
        ("bias_act backward", (1.4, 1.4)),
        ("upsample", (1.4, 2.0)),
        ("upsample backward", (1.3, 2.2)),
        ("downsample", (1.05, 1.05)),
    ],
)
def test_kernels_move_little_more_than_each_activation_once(library, last, op, most):
    """As the shim counts loads and stores; what is read again by other threads is most likely in a GPU's cache."""
    x, large = normal(1, 32, 32, 32, last=last), normal(1, 32, 64, 64, last=last)
    epilogue = Epilogue(normal(32), noise=normal(1, 1, 32, 32), strength=torch.tensor(0.5), activation="lrelu")
    numbers, nothing = (epilogue.slope, epilogue.factor), (None, None, None, None, 1.0, 1.0)
    up = "linear", [2, 2], [32, 32], [64, 64]
    calls = {
        "bias_act": (2 * [x], lambda: apply_epilogue(x, epilogue)),
        "bias_act backward": (3 * [x], lambda: KERNELS.bias_act_grad(x, x, None, epilogue.noise, *numbers)),
        "upsample": ([x, large], lambda: upsample(x, (2, 2), (64, 64))),
        "upsample backward": ([x, large], lambda: KERNELS.resample(large, *up, True, *nothing)),
        "downsample": ([x, large], lambda: downsample(large, (2, 2))),
    }
    activations, call = calls[op]
    bytes_moved(shim())
    call()
    share = sum(bytes_moved(shim())) / least_bytes(*activations)
    print(f"| {op} | {'channels_last' if last else 'contiguous'} | {share:.2f} |")
    assert 1 <= share < most[last]


@pytest.mark.kernels
@pytest.mark.skipif(SANITIZED in os.environ, reason="this is the process that it starts")
def test_kernels_stay_within_their_memory():
    """The whole file once more, with the CUDA sources under AddressSanitizer and UBSan."""
    libraries = [
        subprocess.run([compiler(), f"-print-file-name={name}.so"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan", "libstdc++")  # the latter, since Python does not bring it, and asan wraps its throws
    ]
    variables = os.environ | {SANITIZED: "1", "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", __file__, "-k", "shim"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


# --- kernels tried before `auto` takes them


class Broken(Library):
    """A library of which one kernel computes something else, or fails."""

    def __init__(self, library, kernel, fails):
        self.__dict__ |= vars(library) | {"kernel": kernel, "fails": fails}

    def call(self, name, like, *arguments):
        if name == self.kernel and self.fails:
            raise RuntimeError("no kernel image is available for execution on the device")
        super().call(name, like, *arguments)
        if name == self.kernel:
            next(argument for argument in arguments if isinstance(argument, torch.Tensor)).mul_(1.2)


@pytest.mark.parametrize("fails", [False, True], ids=["differs", "fails"])
@pytest.mark.parametrize("kernel", ["bias_act", "bias_act_grad", "bias_act_grad_grad", "resample"])
def test_kernels_that_differ_from_pytorch_are_not_used_and_that_is_reported_once(monkeypatch, capfd, kernel, fails):
    library = find_library("cpu")
    if isinstance(library, str):
        pytest.skip(library)
    monkeypatch.setenv(backends.VARIABLE, "auto")
    assert choose_backend("cpu") == "cpu"
    assert describe_backend("cpu") == "cpu"
    broken = Broken(library, kernel, fails)
    for module in (operators, backends):
        monkeypatch.setattr(module, "find_library", lambda device: broken)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert [choose_backend("cpu") for _ in range(3)] == ["native"] * 3
    printed = capfd.readouterr().err
    assert printed.count("cpu ops") == 1
    assert ("no kernel image" in printed) == fails
    assert describe_backend("cpu").startswith("native")
    assert printed.strip().partition(", since ")[2].removesuffix(".") in describe_backend("cpu")
    assert choose_backend("cpu", "cpu") == "cpu"


def test_why_kernels_are_not_used_is_reported(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, "native")
    assert describe_backend("cpu") == "native (STYLEGAN2_COND_OPS=native)"
    monkeypatch.setenv(backends.VARIABLE, "auto")
    monkeypatch.setattr(backends, "find_library", lambda device: "there is no nvcc.")
    assert describe_backend("cuda") == "native, plain PyTorch: there is no nvcc."
    assert describe_backend("mps") == "native"


def test_kernels_that_no_gpu_has_confirmed_are_used_with_the_reason(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, "auto")
    library = object.__new__(Library)
    monkeypatch.setattr(backends, "find_library", lambda device: library)
    monkeypatch.setattr(backends, "_refuse", lambda library, device: "")
    assert choose_backend("cuda") == "cuda"
    assert describe_backend("cuda").startswith("cuda, compiled kernels: each was tried on this GPU")
    monkeypatch.setenv(backends.VARIABLE, "cuda")
    assert describe_backend("cuda") == "cuda (STYLEGAN2_COND_OPS=cuda)"
