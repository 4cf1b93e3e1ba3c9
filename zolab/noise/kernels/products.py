"""The CPU kernel of directions of low rank: their values from two small factors."""

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import fma, times, wide_vectors


@kernel
def product(out, u, v, skip):
    """out = some elements of u @ v, read row by row; each is summed in the same order wherever the slice begins.

    Args:
        out: flat float32.
        u: the rows that are touched, float32 of shape (rows, rank).
        v: float32 of shape (rank, columns).
        skip: elements of the first row that come before the slice.
    """
    wide_vectors()
    start = 0
    for row in range(u.shape[0]):
        first = skip if row == 0 else 0
        size = min(v.shape[1] - first, out.size - start)
        part = out[start : start + size]
        for k in range(v.shape[0]):
            scale, column = u[row, k], v[k, first : first + size]
            if k == 0:
                for i in range(size):
                    part[i] = times(scale, column[i])
            else:
                for i in range(size):
                    part[i] = fma(scale, column[i], part[i])
        start += size
