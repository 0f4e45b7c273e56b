"""Sums over samples from which a linear learner is fitted, kept by block of days and by the seams of the blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Float, Int64

NUM_BLOCKS: Final = 5
Gram = Float[np.ndarray, "column column"]
Products = Float[np.ndarray, "column horizon"]


@dataclass(slots=True)
class Sums:
    """X'X, X'Y, the squares of Y and the number of samples."""

    gram: Gram
    products: Products
    squares: Float[np.ndarray, " horizon"]
    samples: int = 0

    @classmethod
    def empty(cls, columns: int, horizons: int) -> Self:
        """Sums of no samples."""
        return cls(np.zeros((columns, columns)), np.zeros((columns, horizons)), np.zeros(horizons))

    def add(self, x: Float[np.ndarray, "sample column"], y: Float[np.ndarray, "sample horizon"]) -> None:
        """Add samples."""
        self.gram += x.T @ x
        self.products += x.T @ y
        self.squares += (y**2).sum(axis=0)
        self.samples += len(x)

    def combine(self, other: "Sums", sign: int) -> None:
        """Add the samples of `other`, or take them out again with `sign` -1."""
        self.gram += sign * other.gram
        self.products += sign * other.products
        self.squares += sign * other.squares
        self.samples += sign * other.samples


class BlockSums:
    """Sums of consecutive blocks of training days for cross-validation. The first and last `seam` days of a block have
    sums of their own: labels reach that far, so that they are left out beside a block that is judged.
    """

    def __init__(self, days: Int64[np.ndarray, " day"], seam: int, columns: int, horizons: int) -> None:
        self._starts = days[np.linspace(0, len(days), NUM_BLOCKS + 1).astype(np.int64)[:-1]]
        self._ends = np.concatenate([self._starts[1:], [days[-1] + 1]])
        self._seam, self._shape = seam, (columns, horizons)
        self._parts: dict[tuple[int, str], Sums] = {}

    def add(self, day: int, x: Float[np.ndarray, "sample column"], y: Float[np.ndarray, "sample horizon"]) -> None:
        """Add the samples of a day."""
        block = int(np.searchsorted(self._starts, day, side="right")) - 1
        first, last = day - self._starts[block] < self._seam, self._ends[block] - day <= self._seam
        part = "both" if first and last else "first" if first else "last" if last else "middle"
        if (block, part) not in self._parts:
            self._parts[block, part] = Sums.empty(*self._shape)
        self._parts[block, part].add(x, y)

    def total(self) -> Sums:
        """The sums of all samples."""
        found = Sums.empty(*self._shape)
        for part in self._parts.values():
            found.combine(part, 1)
        return found

    def splits(self) -> Iterator[tuple[Sums, Sums]]:
        """For each block, the sums of the samples at a distance from it, and its own."""
        total = self.total()
        for block in range(NUM_BLOCKS):
            judged, rest = Sums.empty(*self._shape), Sums.empty(*self._shape)
            rest.combine(total, 1)
            for (number, part), sums in self._parts.items():
                if number == block:
                    judged.combine(sums, 1)
                    rest.combine(sums, -1)
                elif (number == block - 1 and part in ("last", "both")) or (
                    number == block + 1 and part in ("first", "both")
                ):
                    rest.combine(sums, -1)
            if judged.samples and rest.samples:
                yield rest, judged
