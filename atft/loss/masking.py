"""Pretraining loss: prediction error of the masked inputs, and InfoNCE between successive days of one stock."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atft.data.cache.batch import Batch
from atft.data.cache.reader import Cache
from atft.loss.objective import LossValue, NoTargets
from atft.model.masking import MaskedPrediction
from atft.spec.pretrain import PretrainSpec

Daily = tuple[Float[Tensor, " day"], Bool[Tensor, " day"]]  # values, and whether each is defined


class MaskedObjective:
    """Pretraining loss `masked + contrast_weight · contrast`: mean over the days with all used terms defined."""

    def __init__(self, spec: PretrainSpec, cache: Cache) -> None:
        self.spec = spec
        self.code_index = cache.code_index

    def __call__(self, prediction: MaskedPrediction, batch: Batch) -> LossValue:
        """Raises NoTargets when no day of the batch has a loss. A NaN prediction makes the total NaN."""
        with torch.autocast(prediction.inputs.device.type, enabled=False):
            reconstruction, defined = fraction_unexplained(prediction, batch, min_names=self.spec.data.min_names)
            terms = {"masked": (reconstruction, 1.0)}
            if prediction.views is not None:
                codes = torch.as_tensor(self.code_index[batch.rows].astype("int64"), device=prediction.views.device)
                contrast, paired = info_nce(
                    prediction.views,
                    codes,
                    batch,
                    temperature=self.spec.temperature,
                    min_names=self.spec.data.min_names,
                )
                terms["contrast"] = (contrast, self.spec.contrast_weight)
                defined = defined & paired
            num = int(defined.sum())
            if not num:
                raise NoTargets(f"none of {batch.num_days} days has a defined pretraining loss")
            means = {name: torch.where(defined, value, 0.0).sum() / num for name, (value, _) in terms.items()}
            total = torch.stack([means[name] * weight for name, (_, weight) in terms.items()]).sum()
        return LossValue(
            total=total,
            parts={name: mean.detach() for name, mean in means.items()},
            num_days=batch.num_days,
            num_skipped_days=batch.num_days - num,
            num_constant_days=0,
        )


def fraction_unexplained(prediction: MaskedPrediction, batch: Batch, *, min_names: int) -> Daily:
    """By day, the squared error of the masked inputs over their sum of squares about the day's mean: 0 for a perfect
    prediction, 1 for predicting the mean.

    Columns that are equal for all stocks of a day cancel. Undefined on days with fewer than `min_names` ranked stocks,
    and where all masked inputs equal the mean.
    """
    today = batch.x[batch.windows[:, -1]].float()
    ranked = batch.ranked.unsqueeze(-1)
    names = _by_day(batch.ranked.float(), batch)
    mean = _by_day(torch.where(ranked, today, 0.0), batch) / names.clamp_min(1.0).unsqueeze(-1)
    target = today - mean[batch.day]
    masked = prediction.masked.unsqueeze(-1)
    error = _by_day(torch.where(masked, (prediction.inputs.float() - target).square(), 0.0).sum(dim=-1), batch)
    total = _by_day(torch.where(masked, target.square(), 0.0).sum(dim=-1), batch)
    defined = (names >= min_names) & (total > 0)
    return error / torch.where(defined, total, 1.0), defined


def info_nce(
    views: Float[Tensor, "stock hidden"],
    codes: Int64[Tensor, " stock"],
    batch: Batch,
    *,
    temperature: float,
    min_names: int,
) -> Daily:
    """InfoNCE by day (van den Oord et al. 2018, arXiv 1807.03748): cross-entropy of cosines / `temperature`.

    The positive of a ranked stock is the same stock on the next day (for the batch's last day, the day before); the
    negatives are the other stocks of that day. Undefined for a batch of one day, and where fewer than `min_names`
    stocks are ranked on both days.
    """
    unit = F.normalize(views.float(), dim=-1)
    of_day = [torch.nonzero((batch.day == day) & batch.ranked).squeeze(-1) for day in range(batch.num_days)]
    values, defined = [], []
    for day, here in enumerate(of_day):
        other = of_day[day + 1 if day + 1 < batch.num_days else day - 1] if batch.num_days > 1 else here[:0]
        same = codes[here].unsqueeze(1) == codes[other].unsqueeze(0)
        found = same.any(dim=1) if len(other) else torch.zeros(len(here), dtype=torch.bool, device=views.device)
        defined.append(int(found.sum()) >= max(2, min_names))
        if not defined[-1]:
            values.append(views.new_zeros((), dtype=torch.float32))
            continue
        cosines = unit[here[found]] @ unit[other].T / temperature
        values.append(F.cross_entropy(cosines, same[found].long().argmax(dim=1)))
    return torch.stack(values), torch.tensor(defined, device=views.device)


def _by_day(values: Float[Tensor, "stock *column"], batch: Batch) -> Float[Tensor, "day *column"]:
    return values.new_zeros((batch.num_days, *values.shape[1:])).index_add(0, batch.day, values)
