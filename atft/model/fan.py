"""Frequency adaptive normalisation (NeurIPS 2024, arXiv 2409.20371) and frequency dropout.

Both work along the first axis of `[day, stock, hidden]`.
Everything runs in float32 or float64, even under autocast, because selecting frequencies compares close numbers.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

MATRIX_WINDOW = 64  # up to this window one W×W matrix product is faster than an FFT (measured on CPU)
MAX_FREQUENCIES = 512  # more than the frequencies of the longest window
MAX_INSERTION_SORT = 8  # up to this many frequencies, insertion sort is faster than topk on a CPU
MIN_POWER = 1e-12  # added under the square root, whose derivative is infinite at 0


class Spectrum(nn.Module):
    """Real Fourier coefficients of a window in an orthonormal basis: cosines 0 … W//2, then sines 1 … (W-1)//2."""

    basis: Tensor
    scale: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.num_frequencies = window // 2 + 1
        self.num_sines = (window - 1) // 2
        # Both tables are float64 and cast to the data's type when used, so that a float64 caller gets float64 results.
        basis = _basis(window) if window <= MATRIX_WINDOW else torch.empty(0)
        self.register_buffer("basis", basis, persistent=False)
        # A frequency with a cosine and a sine shares its power between them.
        scale = torch.full((self.num_frequencies, 1), math.sqrt(2.0), dtype=torch.float64)
        scale[0] = 1.0
        if window % 2 == 0:
            scale[-1] = 1.0
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Float[Tensor, "day column"]) -> Float[Tensor, "day column"]:
        if self.window <= MATRIX_WINDOW:
            return self.basis.to(x.dtype) @ x
        transformed = torch.fft.rfft(x, dim=0, norm="ortho") * self.scale.to(x.dtype)
        return torch.cat([transformed.real, -transformed.imag[1 : 1 + self.num_sines]])

    def inverse(self, coefficients: Float[Tensor, "day column"]) -> Float[Tensor, "day column"]:
        if self.window <= MATRIX_WINDOW:
            return self.basis.to(coefficients.dtype).T @ coefficients
        sines = torch.nn.functional.pad(
            -coefficients[self.num_frequencies :], (0, 0, 1, self.num_frequencies - self.num_sines - 1)
        )
        transformed = torch.complex(coefficients[: self.num_frequencies], sines) / self.scale.to(coefficients.dtype)
        restored: Tensor = torch.fft.irfft(transformed, n=self.window, dim=0, norm="ortho")
        return restored

    def power(self, coefficients: Float[Tensor, "day column"]) -> Float[Tensor, "frequency column"]:
        """`|rfft(x)|²`."""
        squares = coefficients.square()
        power = squares[: self.num_frequencies]
        power[1 : 1 + self.num_sines] += squares[self.num_frequencies :]
        return power.mul_(self.power_scale(power))

    def power_scale(self, like: Float[Tensor, "_ column"]) -> Float[Tensor, "frequency 1"]:
        """Factor from squared coefficients to `|rfft(x)|²`."""
        return self.scale.to(like.dtype).square().reciprocal().mul(self.window)

    def spread(self, per_frequency: Float[Tensor, "frequency *column"]) -> Float[Tensor, "day *column"]:
        """Values by frequency, repeated for its cosine and its sine."""
        return torch.cat([per_frequency, per_frequency[1 : 1 + self.num_sines]])


class _FrequencySplit(torch.autograd.Function):
    """The normalisation with a hand-written gradient, which takes half the passes over memory that autograd's takes."""

    @staticmethod
    def forward(
        context: Any, x: Float[Tensor, "day column"], spectrum: Spectrum, count: int
    ) -> tuple[Float[Tensor, "day column"], Float[Tensor, "kept column"]]:
        coefficients = spectrum(x)
        power = spectrum.power(coefficients)
        kept = top_frequencies(power, count)
        amplitudes = power.gather(0, kept).add_(MIN_POWER).sqrt_()
        dropped = torch.ones_like(power).scatter_(0, kept, 0.0)
        residual = spectrum.inverse(coefficients * spectrum.spread(dropped))
        context.save_for_backward(coefficients, kept, dropped, amplitudes)
        context.spectrum = spectrum
        return residual, amplitudes

    @staticmethod
    def backward(
        context: Any, residual: Float[Tensor, "day column"], amplitudes: Float[Tensor, "kept column"]
    ) -> tuple[Float[Tensor, "day column"], None, None]:
        coefficients, kept, dropped, size = context.saved_tensors
        spectrum = context.spectrum
        with torch.autocast(residual.device.type, enabled=False):
            per_power = torch.zeros_like(dropped).scatter_(0, kept, amplitudes / size).mul_(spectrum.power_scale(size))
            through = spectrum(residual).mul_(spectrum.spread(dropped))
            through.addcmul_(coefficients, spectrum.spread(per_power))
            return spectrum.inverse(through), None, None


class FrequencyNormalization(nn.Module):
    """Removes from each stock and channel its `top_k` frequencies with the largest |X|."""

    def __init__(self, *, window: int, top_k: int) -> None:
        super().__init__()
        self.spectrum = Spectrum(window)
        self.top_k = top_k
        if not 1 <= top_k <= self.spectrum.num_frequencies:
            raise ValueError(f"top_k is 1 … {self.spectrum.num_frequencies} for a window of {window} days, not {top_k}")

    def forward(
        self, x: Float[Tensor, "day stock hidden"]
    ) -> tuple[Float[Tensor, "day stock hidden"], Float[Tensor, "kept stock hidden"]]:
        """The residual, and |X|/W of the removed frequencies, largest first (the level, or half a wave's amplitude)."""
        with torch.autocast(x.device.type, enabled=False):
            residual, amplitudes = _FrequencySplit.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
                _at_least_float32(x).flatten(1), self.spectrum, self.top_k
            )
            return residual.view(x.shape), (amplitudes / self.spectrum.window).view(self.top_k, *x.shape[1:])


class Fan(nn.Module):
    """FAN block: `x + residual`, which keeps the level that ranks stocks, and a linear map of the top amplitudes."""

    def __init__(self, *, window: int, hidden_size: int, top_k: int) -> None:
        super().__init__()
        self.normalization = FrequencyNormalization(window=window, top_k=top_k)
        self.describe = nn.Linear(top_k * hidden_size, hidden_size)

    def forward(
        self, x: Float[Tensor, "day stock hidden"]
    ) -> tuple[Float[Tensor, "day stock hidden"], Float[Tensor, "stock hidden"]]:
        residual, amplitudes = self.normalization(x)
        return x + residual, self.describe(torch.log1p(amplitudes).permute(1, 0, 2).flatten(1))


class FrequencyDropout(nn.Module):
    """Dropout of a stock's frequencies, all channels together, in training; keeps the level, which ranks stocks."""

    def __init__(self, *, window: int, rate: float) -> None:
        super().__init__()
        self.spectrum = Spectrum(window)
        self.rate = rate

    def forward(self, x: Float[Tensor, "day stock hidden"]) -> Float[Tensor, "day stock hidden"]:
        if not self.training or self.rate == 0:
            return x
        with torch.autocast(x.device.type, enabled=False):
            wide = _at_least_float32(x)
            keep = torch.rand(self.spectrum.num_frequencies, x.shape[1], 1, device=x.device, dtype=wide.dtype).ge(
                self.rate
            ) / (1 - self.rate)
            keep[0] = 1.0
            coefficients = self.spectrum(wide.flatten(1)).view(x.shape)
            return self.spectrum.inverse((coefficients * self.spectrum.spread(keep)).flatten(1)).view(x.shape)


def top_frequencies(power: Float[Tensor, "frequency column"], count: int) -> Int64[Tensor, "kept column"]:
    """Row numbers of the `count` largest values (≥ 0, compared as float32) of every column, largest first.

    Ties go to the lower row on every device: the bits of a float ≥ 0, read as an integer, sort like the float, and the
    row number is appended to them.
    """
    last = power.shape[0] - 1
    rows = torch.arange(last, -1, -1, device=power.device).unsqueeze(1)
    keys = power.float().view(torch.int32).long().mul_(MAX_FREQUENCIES).add_(rows)
    if power.device.type != "cpu" or count > MAX_INSERTION_SORT:
        best = keys.topk(count, dim=0).values
    else:
        found: list[Tensor] = []
        for key in keys.unbind(
            0
        ):  # insertion sort of whole rows: vectorised where topk goes column by column, 6 times faster
            lower = key
            for index, higher in enumerate(found):
                found[index], lower = torch.maximum(higher, lower), torch.minimum(higher, lower)
            if len(found) < count:
                found.append(lower)
        best = torch.stack(found)
    return last - best % MAX_FREQUENCIES


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _basis(window: int) -> Float[Tensor, "day day"]:
    angle = 2 * math.pi / window * torch.arange(window, dtype=torch.float64)
    cosines = torch.cos(torch.outer(torch.arange(window // 2 + 1, dtype=torch.float64), angle))
    sines = torch.sin(torch.outer(torch.arange(1, (window - 1) // 2 + 1, dtype=torch.float64), angle))
    basis = torch.cat([cosines, sines])
    unit: Tensor = basis / basis.norm(dim=1, keepdim=True)
    return unit
