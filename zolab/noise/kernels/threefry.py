"""Threefry-2x32 with 13 rounds: the integers behind every random direction.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Thirteen rounds is the
smallest number for which the authors report no failure in BigCrush.

A counter-based generator is a keyed function: the same (key, counter) gives the same two words on every device, in any
order, and nothing is stored between calls. The form below works on NumPy arrays; the CPU, CUDA and plain-torch kernels
compute the same function and are tested against it and against the authors' known answers.
"""

import numpy as np

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 13

# One tile of a direction: the generator's two words give two normals, one for each half of the tile.
TILE = 2048
PAIRS = TILE // 2

# A tile of random signs takes one bit an element: the words of 32 calls, whose counters (n, 2) nothing else uses. Normals have
# (n, 0), and rounding at random has (n, 1).
SIGN_CALLS, SIGN_COUNTER = TILE // 64, 2

Words = tuple[np.ndarray, np.ndarray]


def threefry2x32(key: tuple, counter: tuple, rounds: int = ROUNDS) -> Words:
    """Two pseudo-random 32-bit words for each counter under each key.

    Args:
        key: two uint32 scalars or arrays.
        counter: two uint32 scalars or arrays, broadcast against the key.
        rounds: number of rounds; 13 is the generator used for directions.

    Returns:
        Two uint32 arrays of the broadcast shape.
    """
    k0, k1, x0, x1 = (np.asarray(word, dtype=np.uint32) for word in (*key, *counter))
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + schedule[0], x1 + schedule[1]
        for r in range(rounds):
            x0 = x0 + x1
            left = np.uint32(ROTATIONS[r % 8])
            x1 = ((x1 << left) | (x1 >> (np.uint32(32) - left))) ^ x0
            if r % 4 == 3:
                i = r // 4 + 1
                x0 = x0 + schedule[i % 3]
                x1 = x1 + schedule[(i + 1) % 3] + np.uint32(i)
    return x0, x1
