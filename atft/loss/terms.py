"""Loss terms as pure functions of one step's samples, computed separately by day and horizon, in float32 or float64.

All return one value and one flag per day and horizon. The flag is False, and the value 0, where the term is undefined:
fewer than `min_names` known samples, or (rank terms) a constant prediction or constant ranks. Unknown samples affect
no value or gradient; a NaN in a known sample gives NaN. `day` counts 0 … num_days-1, non-decreasing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Samples = Float[Tensor, "stock horizon"]
Known = Bool[Tensor, "stock horizon"]
Days = Int64[Tensor, " stock"]
Term = tuple[Float[Tensor, "day horizon"], Bool[Tensor, "day horizon"]]

CONSTANT = 1e-6  # a standard deviation below this share of the largest |value| is rounding error
PAIRS_AT_ONCE = 2**22  # pairs of stocks in a chunk


def mse(prediction: Samples, label: Samples, known: Known, day: Days, *, num_days: int, min_names: int) -> Term:
    difference = _known_only(prediction, known) - _known_only(label, known)
    return _daily_mean(difference.square(), known, day, num_days, min_names)


def huber(prediction: Samples, label: Samples, known: Known, day: Days, *, num_days: int, min_names: int) -> Term:
    """Huber loss with δ = 1."""
    prediction, label = _known_only(prediction, known), _known_only(label, known)
    return _daily_mean(F.huber_loss(prediction, label, reduction="none"), known, day, num_days, min_names)


def pinball(
    quantiles: Float[Tensor, "stock horizon quantile"],
    label: Samples,
    known: Known,
    day: Days,
    *,
    levels: Sequence[float],
    num_days: int,
    min_names: int,
) -> Term:
    """Pinball (quantile) loss: mean over the levels q of `max(q·(y - ŷ_q), (q - 1)·(y - ŷ_q))`."""
    wide = _known_only(quantiles, known.unsqueeze(-1).expand_as(quantiles))
    difference = _known_only(label, known).unsqueeze(-1) - wide
    level = torch.tensor(levels, dtype=wide.dtype, device=wide.device)
    each = torch.maximum(level * difference, (level - 1) * difference).mean(dim=-1)
    return _daily_mean(each, known, day, num_days, min_names)


def pearson_rank(
    prediction: Samples, ranks: Samples, known: Known, day: Days, *, num_days: int, min_names: int
) -> Term:
    """ρ = Pearson correlation of the prediction with the target's ranks; invariant to `a + b·ŷ`, b > 0."""
    return _correlation(_known_only(prediction, known), _known_only(ranks, known), known, day, num_days, min_names)


def pairwise_sigmoid(
    prediction: Samples,
    ranks: Samples,
    known: Known,
    day: Days,
    *,
    tau: float,
    num_days: int,
    min_names: int,
) -> Term:
    """ρ = Pearson(soft ranks, ranks) with `r_i = Σ_j σ((ŷ_i - ŷ_j) / (τ·std))`: Spearman's correlation as τ → 0.

    O(N²) a day, computed in chunks that are recomputed in the backward pass, which bounds memory.
    """
    prediction = _known_only(prediction, known)
    centred, count = _centre(prediction, known, day, num_days)
    variance = _sum(centred.square(), day, num_days) / count
    constant = variance <= (CONSTANT * _largest(prediction, day, num_days)).square()
    scale = tau * torch.where(constant, 1.0, variance).sqrt()
    scaled = centred / scale[day]
    sizes = torch.bincount(day, minlength=num_days)
    position = torch.arange(len(day), device=day.device) - (sizes.cumsum(0) - sizes)[day]
    longest = int(sizes.max())
    shape = (num_days, longest, prediction.shape[1])
    padded = scaled.new_zeros(shape).index_put((day, position), scaled)
    present = known.new_zeros(shape).index_put((day, position), known)
    rows = max(1, PAIRS_AT_ONCE // max(1, longest * num_days * prediction.shape[1]))
    soft = torch.cat(
        [
            checkpoint(_soft_ranks, part, padded, present, use_reentrant=False, preserve_rng_state=False)
            for part in torch.split(padded, rows, dim=1)
        ],
        dim=1,
    )
    rho, defined = _correlation(
        _known_only(soft[day, position], known), _known_only(ranks, known), known, day, num_days, min_names
    )
    defined = defined & ~constant
    return torch.where(defined, rho, 0.0), defined


def _soft_ranks(
    part: Float[Tensor, "day chunk horizon"],
    everyone: Float[Tensor, "day stock horizon"],
    present: Bool[Tensor, "day stock horizon"],
) -> Float[Tensor, "day chunk horizon"]:
    wins = torch.sigmoid(part.unsqueeze(2) - everyone.unsqueeze(1))
    return torch.where(present.unsqueeze(1), wins, 0.0).sum(dim=2)


def _known_only(values: Tensor, known: Tensor) -> Tensor:
    wide = values if values.dtype == torch.float64 else values.float()
    return torch.where(known, wide, 0.0)


def _sum(values: Float[Tensor, "stock horizon"], day: Days, num_days: int) -> Float[Tensor, "day horizon"]:
    return values.new_zeros(num_days, values.shape[1]).index_add(0, day, values)


def _largest(values: Float[Tensor, "stock horizon"], day: Days, num_days: int) -> Float[Tensor, "day horizon"]:
    index = day.unsqueeze(-1).expand_as(values)
    return values.new_zeros(num_days, values.shape[1]).scatter_reduce(0, index, values.detach().abs(), "amax")


def _centre(values: Samples, known: Known, day: Days, num_days: int) -> tuple[Samples, Float[Tensor, "day horizon"]]:
    """Known values minus their day's mean, 0 where unknown; and the day's number of known values, at least 1."""
    count = _sum(known.to(values.dtype), day, num_days).clamp_min(1.0)
    mean = _sum(values, day, num_days) / count
    return torch.where(known, values - mean[day], 0.0), count


def _daily_mean(each: Samples, known: Known, day: Days, num_days: int, min_names: int) -> Term:
    count = _sum(known.to(each.dtype), day, num_days)
    defined = count >= min_names
    return torch.where(defined, _sum(torch.where(known, each, 0.0), day, num_days) / count.clamp_min(1.0), 0.0), defined


def _correlation(a: Samples, b: Samples, known: Known, day: Days, num_days: int, min_names: int) -> Term:
    centred_a, _ = _centre(a, known, day, num_days)
    centred_b, count = _centre(b, known, day, num_days)
    squares_a, squares_b = _sum(centred_a.square(), day, num_days), _sum(centred_b.square(), day, num_days)
    # A comparison with NaN is False, so that a NaN prediction stays visible as a NaN loss instead of looking constant.
    constant = squares_a <= count * (CONSTANT * _largest(a, day, num_days)).square()
    constant = constant | (squares_b <= count * (CONSTANT * _largest(b, day, num_days)).square())
    names = _sum(known.to(a.dtype), day, num_days)
    defined = ~constant & (names >= min_names)
    size = torch.where(defined, squares_a, 1.0).sqrt() * torch.where(defined, squares_b, 1.0).sqrt()
    return torch.where(defined, _sum(centred_a * centred_b, day, num_days) / size, 0.0), defined
