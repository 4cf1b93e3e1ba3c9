"""Directions: known answers, addressing, statistics, in-place adds and dots."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from zolab import noise
from zolab.noise import Direction
from zolab.noise.kernels import cpu, plain
from zolab.noise.kernels.threefry import PAIRS, TILE, threefry2x32

SIZES = [0, 1, 2, 3, 7, 1023, 1024, 1025, TILE - 1, TILE, TILE + 1, 6000, cpu.CHUNK - 1, cpu.CHUNK + 3]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAME = Direction(seed=0, step=3)


@pytest.mark.parametrize(
    ("rounds", "key", "counter", "answer"),
    [
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0xFD36D048, 0x2D17272C)),
        (13, (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (20, (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(rounds, key, counter, answer):
    """The vectors that the generator's authors publish."""
    assert tuple(int(word) for word in threefry2x32(key, counter, rounds)) == answer


def test_every_kernel_makes_the_same_integers():
    for k0, k1, tile in [(0, 0, 0), (1, 2, 9), (0xFFFFFFFF, 0xDEADBEEF, 2**21 - 1)]:
        expected = np.concatenate(threefry2x32((k0, k1), (np.arange(tile * PAIRS, (tile + 1) * PAIRS), 0)))
        assert np.array_equal(cpu.words(k0, k1, tile), expected)
        assert np.array_equal(plain.words(k0, k1, tile).numpy(), expected)


def test_compiled_and_plain_normals_agree_to_four_units_in_the_last_place():
    compiled = noise.direction(NAME, 1, 500_000)
    reference = torch.empty(500_000)
    plain.fill(reference, *NAME.keys((1,))[0], 0)
    units = (compiled.view(torch.int32) - reference.view(torch.int32)).abs().max()
    assert units <= 4


def test_normals_are_the_exact_box_muller_of_their_words():
    words = torch.from_numpy(cpu.words(5, 6, 7).astype(np.int64))
    word0, word1 = words[:PAIRS], words[PAIRS:]
    radius = (-2 * (((word0 >> 9).double() + 0.5) * 2.0**-23).log()).sqrt()
    out = torch.empty(TILE)
    cpu.fill(out.numpy(), 5, 6, 7)
    first, second = out[:PAIRS].double(), out[PAIRS:].double()
    assert torch.allclose(first.square() + second.square(), radius.square(), rtol=1e-6)
    eighth = ((word1 << 34) >> 34).double() * 2.0**-30 * math.pi / 2  # 30 bits, signed, in [-pi/4, pi/4)
    turned = torch.where((word1 & 0x40000000) != 0, second.abs(), first.abs())
    assert torch.allclose(turned, radius * eighth.cos(), rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_any_slice_is_a_piece_of_the_whole(size):
    whole = noise.direction(NAME, 4, size)
    for offset in {0, 1, size // 3, size // 2, max(0, size - 1)}:
        assert torch.equal(noise.direction(NAME, 4, size - offset, offset=offset), whole[offset:])


def test_shape_dtype_and_scalar_blocks():
    assert noise.direction(NAME, 0, ()).shape == ()
    z = noise.direction(NAME, 0, (3, 5), dtype=torch.bfloat16)
    assert z.shape == (3, 5)
    assert z.dtype == torch.bfloat16
    assert torch.equal(z.float(), noise.direction(NAME, 0, (3, 5)).bfloat16().float())


def test_moments_and_distribution():
    """Mean, variance, skewness and kurtosis within 4.5 standard errors; Kolmogorov-Smirnov at the 1e-5 level."""
    n = 4_000_000
    z = noise.direction(Direction(17, 0), 0, n).double()
    errors = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10395 - 225)}
    scores = {k: ((z**k).mean().item() - mean) / math.sqrt(variance / n) for k, (mean, variance) in errors.items()}
    print({k: round(score, 2) for k, score in scores.items()})
    assert all(abs(score) < 4.5 for score in scores.values())
    cdf = torch.special.ndtr(z.sort().values)
    distance = (cdf - (torch.arange(n).double() + 0.5) / n).abs().max() + 0.5 / n
    print(f"KS distance {distance:.2e}")
    assert distance < math.sqrt(-math.log(1e-5 / 2) / 2 / n)
    beyond = int((z.abs() > 4).sum())
    expected = n * math.erfc(4 / math.sqrt(2))
    assert abs(beyond - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    "other",
    [
        (Direction(0, 4), 0, 0),
        (Direction(1, 3), 0, 0),
        (Direction(2**63, 3), 0, 0),
        (Direction(0, 3, sample=1), 0, 0),
        (NAME, 1, 0),
        (NAME, 0, 1),
        (NAME, 0, PAIRS),
        (NAME, 0, TILE),
    ],
)
def test_steps_seeds_samples_blocks_and_neighbours_are_uncorrelated(other):
    name, block, shift = other
    n = 1_000_000
    a = noise.direction(NAME, 0, n).double()
    b = noise.direction(name, block, n, offset=shift).double()
    for x, y in ((a, b), (a**2 - 1, (b**2 - 1) / 2)):
        score = float((x * y).mean()) * math.sqrt(n)
        assert abs(score) < 4.5, score


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_and_dot_equal_the_materialised_direction(size, dtype):
    start = torch.linspace(-0.3, 0.3, size).to(dtype) if size else torch.empty(0, dtype=dtype)
    z = noise.direction(NAME, 2, size)
    added = noise.add_(start.clone(), NAME, 2, 0.01)
    expected = (start.double() + 0.01 * z.double()).to(dtype)
    assert torch.allclose(added.double(), expected.double(), atol=1e-7, rtol=torch.finfo(dtype).eps)
    tolerance = 1e-6 * max(1.0, float((start.double() * z.double()).abs().sum()))
    assert abs(noise.dot(start, NAME, 2) - float(start.double() @ z.double())) <= tolerance


def test_threads_do_not_change_bits():
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(noise.add_(torch.zeros(3 * cpu.CHUNK + 5), NAME, 0, 1.0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_an_error_in_one_thread_is_raised_when_no_other_is_at_work():
    pieces, threads = noise.chunks([torch.zeros(8 * cpu.CHUNK)]), torch.get_num_threads()
    begun, ended = [], []

    def work(i):
        begun.append(i)
        time.sleep(0.01)
        if i == 1:
            raise OSError("full")
        ended.append(i)

    try:
        torch.set_num_threads(3)
        with pytest.raises(OSError, match="full"):
            noise.for_each(pieces, work, 8 * cpu.CHUNK)
        assert sorted(begun) == sorted([*ended, 1]) == list(range(8))
    finally:
        torch.set_num_threads(threads)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    noise.add_(torch.zeros(5000), NAME, 0, 1.0)
    noise.direction(NAME, 0, 100)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_process_makes_the_same_bits():
    code = (
        "from zolab.noise import Direction, direction; "
        "print(direction(Direction(9, 8, 7), 6, 5000, offset=4321).numpy().tobytes().hex())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == noise.direction(Direction(9, 8, 7), 6, 5000, offset=4321).numpy().tobytes().hex()


def test_a_forked_child_can_use_the_engine():
    """The thread pool of the parent does not exist in the child."""
    code = (
        "import os, torch; from zolab.noise import *; t = torch.zeros(10**6); add_(t, Direction(0, 0), 0, 1.0); "
        "pid = os.fork(); "
        "add_(t, Direction(0, 1), 0, 1.0); "
        "os._exit(0) if pid == 0 else print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**64}, {"step": -1}, {"step": 2**32}, {"sample": -1}])
def test_addresses_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Direction(**{"seed": 0, "step": 0, **bad})


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(4, 6).T, torch.zeros(10)[::2], torch.zeros(3, dtype=torch.int64), torch.zeros(3, device="meta")],
    ids=["transposed", "strided", "integer", "meta"],
)
def test_tensors_that_cannot_be_changed_in_place_are_refused(tensor):
    with pytest.raises(ValueError, match=r"contiguous|floating-point|on the meta device"):
        noise.add_(tensor, NAME, 0, 1.0)


COMPILE_SLOWLY = """
import sys, time
import numpy as np
from numba.core.caching import IndexDataCacheFile

if "slowly" in sys.argv:  # long enough for the other process to come between
    save = IndexDataCacheFile._save_index
    IndexDataCacheFile._save_index = lambda self, overloads: (time.sleep(3), save(self, overloads))

from zolab.noise.kernels import cpu

for dtype in sys.argv[1].split(","):
    w = np.zeros(512, dtype)
    cpu._add_scaled(w, np.uint32(1), np.uint32(2), 0, np.float32(1), False)
    print(dtype, w.view(np.uint8).sum(), sum(cpu._add_scaled.stats.cache_hits.values()))
"""


def test_two_processes_may_compile_a_kernel_at_once(tmp_path):
    """For two types of weights; the code of one, run on the other's, would fail in every later process."""
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    options = {"env": environ, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", COMPILE_SLOWLY]
    both = [subprocess.Popen([*command, dtype, "slowly"], **options) for dtype in ("float32", "uint16")]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    later = subprocess.run([*command, "float32,uint16"], **options, timeout=240)
    assert later.returncode == 0, later.stderr
    first, second = (line.split() for line in later.stdout.splitlines())
    assert [first[:2], second[:2]] == [output.split()[:2] for output, _ in outputs]
    assert second[2] == "2"  # nothing was compiled again
