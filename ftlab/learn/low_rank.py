"""A matrix as a product of two thin ones: B (m x r) times A (r x n), as LoRA writes a change.

Of all matrices of rank r none is nearer to a given one, by the Frobenius norm, than the first r
terms of its singular value decomposition (Eckart & Young 1936, doi:10.1007/BF02288367).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class LowRank:
    """The first terms of the SVD of an m x n matrix, and all its min(m, n) singular values.

    `left` is m x k, `right` is k x n; `values` are in falling order.
    """

    left: Matrix
    values: Values
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def top(self) -> int:
        """The largest rank that can be asked for."""
        return self.left.shape[1]

    def factors(self, rank: int) -> tuple[Matrix, Matrix]:
        """B (m x rank) and A (rank x n); the singular values are shared equally by both."""
        root = np.sqrt(self.values[:rank]).astype(np.float32)
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]

    def product(self, rank: int) -> Matrix:
        """B·A (m x n), the nearest matrix of that rank."""
        b, a = self.factors(rank)
        return b @ a


def decompose(matrix: Matrix, top: int | None = None) -> LowRank:
    """The SVD of a matrix with its first `top` terms kept (`None`: all)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return LowRank(left[:, :top].copy(), values.astype(np.float64), right[:top].copy())


def energies(values: Values) -> Values:
    """Share of the squared Frobenius norm that each singular value has; all 0 for a zero matrix."""
    squares = np.square(values, dtype=np.float64)
    total = float(squares.sum())
    return squares / total if total > 0 else np.zeros_like(squares)


def kept(values: Values, rank: int) -> float:
    """Share of the energy (squared Frobenius norm) in the first `rank` terms; 1 for no change."""
    return float(energies(values)[:rank].sum()) if values.any() else 1.0


def missed(values: Values, rank: int) -> float:
    """Relative error of the best approximation of that rank: ‖X − B·A‖ / ‖X‖, Frobenius norms.

    By Eckart & Young the root of the sum of the squared singular values that are left out.
    """
    return float(np.sqrt(energies(values)[rank:].sum()))


def rank_for(values: Values, share: float) -> int:
    """How many terms hold that share (0 to 1) of the energy; 0 for a zero matrix."""
    if not values.any():
        return 0
    reached = np.cumsum(energies(values)) >= share * (1 - 1e-9)
    return int(np.argmax(reached)) + 1 if reached.any() else len(values)


def effective_rank(values: Values) -> float:
    """How many directions a matrix uses, as a number between 1 and its rank; 0 for a zero matrix.

    e to the entropy of the singular values divided by their sum (Roy & Vetterli 2007, "The
    effective rank", EUSIPCO).
    """
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def product_values(b: Matrix, a: Matrix) -> Values:
    """Singular values of B·A (m x r times r x n) from its r x r core; m x n is never formed.

    B = Q₁R₁ and Aᵀ = Q₂R₂ with orthonormal Q, so B·A has the singular values of R₁R₂ᵀ.
    """
    left: Values = np.asarray(np.linalg.qr(b.astype(np.float64), mode="r"))
    right: Values = np.asarray(np.linalg.qr(a.T.astype(np.float64), mode="r"))
    return np.linalg.svdvals(left @ right.T)


def stored(shape: tuple[int, int], rank: int) -> int:
    """Numbers in B and A of an m x n matrix: r(m + n)."""
    return rank * sum(shape)
