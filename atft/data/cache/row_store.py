"""Row stores: feature values by panel row as tensors on the run's device, gathered from the mapped cache or from a copy
of the needed rows on the device.

The copy is made from the mapped values, so that both give the same numbers (bit for bit in float32).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atft.data.cache.reader import Cache

CHUNK_BYTES = 32 * 2**20  # of one copy to the device, and of the host's pinned memory during it
RESERVE_SHARE, RESERVE_BYTES = 0.25, 2 * 2**30  # of the device's memory, kept for weights and activations


class MappedRows:
    """Rows of the mapped cache, selected features and market columns, gathered on the host and sent to the device.

    `dtype`, here and in ResidentRows: of the stored values; results are float32.
    """

    kind: Literal["mapped"] = "mapped"
    dtype = torch.float32

    def __init__(
        self,
        cache: Cache,
        features: Int[np.ndarray, " feature"],
        market: Int[np.ndarray, " column"],
        device: torch.device,
    ) -> None:
        self.device = device
        self.width = len(features) + len(market)
        self._cache, self._features, self._market = cache, features, market
        self._whole = np.array_equal(features, np.arange(len(cache.feature_names)))

    def values(self, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row feature"]:
        """The values of panel rows `rows`, on the host."""
        cache, width = self._cache, len(self._features)
        out = np.empty((len(rows), self.width), np.float32)
        if self._whole and not len(self._market):
            # three times as fast as cache.features[rows]; mode `clip` avoids a buffer, no index is out of range
            return np.take(cache.features, rows, axis=0, out=out, mode="clip")
        taken = np.take(cache.features, rows, axis=0)
        out[:, :width] = taken if self._whole else taken[:, self._features]
        if len(self._market):
            out[:, width:] = cache.market[:, self._market][cache.day_index[rows]]
        return out

    def __call__(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row feature"]:
        return to_device(self.values(rows), self.device)

    def windows(self, ends: Int[np.ndarray, " stock"], window: int) -> Float[Tensor, "stock window feature"]:
        """The windows of `window` rows that end at panel rows `ends`."""
        if self._whole and not len(self._market):
            return to_device(copy_windows(self._cache.features, ends, window), self.device)
        rows = ends[:, None] + np.arange(1 - window, 1)
        return self(rows.reshape(-1)).view(len(ends), window, self.width)


class ResidentRows:
    """A copy on the device of the panel rows that are needed, [needed, feature] in `dtype`."""

    kind: Literal["resident"] = "resident"

    def __init__(
        self,
        mapped: MappedRows,
        needed: Int[np.ndarray, " row"],
        num_rows: int,
        dtype: torch.dtype,
        on_progress: Callable[[float], None],
    ) -> None:
        """Copies the distinct rows `needed` of a panel of `num_rows`, calling `on_progress(share copied)` meanwhile.

        Raises torch.OutOfMemoryError when the device is too full.
        """
        self.dtype, self._device = dtype, mapped.device
        self._position = np.full(num_rows, -1, np.int64)
        self._position[needed] = np.arange(len(needed))
        self._panel = torch.empty((len(needed), mapped.width), dtype=dtype, device=mapped.device)
        chunk = max(1, CHUNK_BYTES // (4 * max(1, mapped.width)))
        for start in range(0, len(needed), chunk):
            part = to_device(mapped.values(needed[start : start + chunk]), mapped.device)
            self._panel[start : start + len(part)] = part
            on_progress((start + len(part)) / len(needed))

    def __call__(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row feature"]:
        """The values of panel rows `rows`. Raises IndexError for a row that was not copied."""
        return self._panel.index_select(0, self._positions(rows)).to(torch.float32)

    def windows(self, ends: Int[np.ndarray, " stock"], window: int) -> Float[Tensor, "stock window feature"]:
        """The windows that end at panel rows `ends`; raises IndexError as above. `needed` contains whole windows, whose
        rows are consecutive here as in the panel.
        """
        positions = self._positions(ends)[:, None] + torch.arange(1 - window, 1, device=self._device)
        taken = self._panel.index_select(0, positions.view(-1)).to(torch.float32)
        return taken.view(len(ends), window, self._panel.shape[1])

    def _positions(self, rows: Int[np.ndarray, " row"]) -> Int[Tensor, " row"]:
        position = self._position[rows]
        if len(position) and position.min() < 0:
            raise IndexError(
                f"panel row {rows[position.argmin()]} is not resident: it is in no window of the run's days"
            )
        return to_device(position, self._device)


def choose_row_store(
    mapped: MappedRows,
    needed: Int[np.ndarray, " row"],
    num_rows: int,
    *,
    budget_bytes: int,
    allow_bfloat16: bool,
    on_progress: Callable[[float], None],
) -> MappedRows | ResidentRows:
    """Resident rows in float32 if that fits into `budget_bytes`; else, with `allow_bfloat16`, resident in bfloat16 if
    that fits; else mapped rows.
    """
    for dtype in (torch.float32, torch.bfloat16) if allow_bfloat16 else (torch.float32,):
        if len(needed) * mapped.width * dtype.itemsize <= budget_bytes:
            return ResidentRows(mapped, needed, num_rows, dtype, on_progress)
    return mapped


def device_budget(device: torch.device) -> int:
    """Bytes that resident rows may take: the free memory less a reserve; 0 on the CPU, where a copy gains nothing."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - max(RESERVE_BYTES, int(RESERVE_SHARE * total)))


def to_device(array: Shaped[np.ndarray, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Copy an array to the device; to a GPU from pinned memory and without blocking (torch keeps the pinned block until
    the copy is done).
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def copy_windows(
    features: Float[np.ndarray, "row feature"], ends: Int[np.ndarray, " stock"], window: int
) -> Float[np.ndarray, "stock window feature"]:
    """Copies of the windows that end at rows `ends`. The rows of a window are contiguous in memory, so that this costs
    one memcpy of the result.
    """
    width = features.shape[1]
    if len(ends) and not window - 1 <= ends.min() <= ends.max() < len(features):
        raise IndexError(f"windows of {window} rows must end at rows {window - 1} to {len(features) - 1}")
    step = features.strides[0]
    runs: npt.NDArray[np.float32] = np.lib.stride_tricks.as_strided(
        features, (max(0, len(features) - window + 1), window * width), (step, features.itemsize), writeable=False
    )
    copied: npt.NDArray[np.float32] = runs[ends - window + 1]
    return copied.reshape(len(ends), window, width)
