"""What torch draws on a CUDA device, computed without one: Philox4x32-10 and the first weights of a Linear layer.

The generator is Salmon et al.'s (Random123, SC 2011). Its mapping to numbers follows torch's CUDA kernel for `uniform_`: for
tensors this small, thread i draws element i alone, from subsequence i, and each call moves the offset on by four.
"""

import numpy as np

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key after each round
LOW = np.uint64(0xFFFFFFFF)
HIGH = np.uint64(32)
OFFSETS = 4  # by which a call of uniform_ moves the stream of a device on
LARGEST = 2**14  # elements; every device of today runs that many threads at once


def philox4x32(counter: tuple, key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four 32-bit words for each counter, after ten rounds.

    Args:
        counter: four words, each an integer or an array; they broadcast.
        key: two words.
    """
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    for round_ in range(10):
        k0, k1 = (np.uint64((k + round_ * weyl) % 2**32) for k, weyl in zip(key, WEYL, strict=True))
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> HIGH) ^ c1 ^ k0, p1 & LOW, (p0 >> HIGH) ^ c3 ^ k1, p0 & LOW
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def cuda_uniform(bound: float, count: int, seed: int, offset: int) -> np.ndarray:
    """What `tensor.uniform_(-bound, bound)` writes into a float32 tensor on a CUDA device, to the bit.

    Args:
        bound: half the width of the interval.
        count: number of elements, at most `LARGEST`.
        seed: as `torch.manual_seed` took it.
        offset: where the device's stream stands, a multiple of four.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 < count <= LARGEST:
        raise ValueError(f"count must be between 1 and {LARGEST}: beyond, a thread may draw several elements; got {count}.")
    if offset < 0 or offset % OFFSETS:
        raise ValueError(f"offset must be a multiple of {OFFSETS}, got {offset}.")
    word, *_ = philox4x32((offset // OFFSETS, 0, np.arange(count), 0), (seed % 2**32, seed >> 32))
    unit = word.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)  # in (0, 1]; torch wants [0, 1)
    unit = np.where(unit == 1, 0, unit).astype(np.float64)
    edge = float(np.float32(bound))
    return (unit * (2 * edge) - edge).astype(np.float32)  # rounded once, as the device's multiply-add does


def cuda_linear(inputs: int, outputs: int, seed: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """First weight (outputs, inputs) and bias (outputs,) of `torch.nn.Linear` made on a CUDA device: two calls of `uniform_`.

    Args:
        inputs, outputs: sizes of the layer.
        seed, offset: as in `cuda_uniform`; the next layer begins at offset + 2 * OFFSETS.
    """
    bound = inputs**-0.5
    weight = cuda_uniform(bound, inputs * outputs, seed, offset).reshape(outputs, inputs)
    return weight, cuda_uniform(bound, outputs, seed, offset + OFFSETS)
