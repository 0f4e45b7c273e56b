"""Network for pretraining by masked prediction (Devlin et al. 2019, arXiv 1810.04805), without labels.

The last day's inputs of some stocks are masked, and predicted from their neighbours' last day and their own past.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from atft.data.cache.batch import Batch
from atft.model.network import Days, Encoder
from atft.spec.model import ModelSpec

EVALUATION_SEED = 20_031_847  # every evaluation masks the same stocks of a day


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPrediction:
    """Output of pretraining: `inputs` are the predicted features of each sample's last day; `masked` marks the masked
    samples; `views` are embeddings for the contrastive loss, None without it.
    """

    inputs: Float[Tensor, "stock feature"]
    masked: Bool[Tensor, " stock"]
    views: Float[Tensor, "stock hidden"] | None


class MaskedPredictionHeads(nn.Module):
    """Mask embedding, and projections of a state to inputs and, for the contrastive loss, to an embedding (`view`)."""

    def __init__(self, *, hidden_size: int, num_features: int, contrast: bool) -> None:
        super().__init__()
        self.stand_in = nn.Parameter(0.02 * torch.randn(hidden_size))
        self.inputs = nn.Linear(hidden_size, num_features)
        self.view = nn.Linear(hidden_size, hidden_size) if contrast else None

    def forward(
        self, state: Float[Tensor, "stock hidden"]
    ) -> tuple[Float[Tensor, "stock feature"], Float[Tensor, "stock hidden"] | None]:
        return self.inputs(state), None if self.view is None else self.view(state)


class MaskedNetwork(Encoder):
    """The encoder with `heads` that predict masked inputs.

    Masks `mask_ratio` of each day's ranked stocks, at least one: at random in training, always the same in evaluation.
    """

    def __init__(self, *, num_features: int, window: int, model: ModelSpec, mask_ratio: float, contrast: bool) -> None:
        super().__init__(num_features=num_features, window=window, model=model)
        self.mask_ratio = mask_ratio
        self.heads = MaskedPredictionHeads(hidden_size=model.hidden_size, num_features=num_features, contrast=contrast)

    def forward(self, batch: Batch) -> MaskedPrediction:
        masked = self.choose_masked(batch)

        def mask(days: Days) -> Days:
            today = torch.where(masked.unsqueeze(-1), self.heads.stand_in.to(days.dtype), days[-1])
            return torch.cat([days[:-1], today.unsqueeze(0)])

        state, _ = self.encode(batch, mask)
        inputs, views = self.heads(state)
        return MaskedPrediction(inputs=inputs, masked=masked, views=views)

    def choose_masked(self, batch: Batch) -> Bool[Tensor, " stock"]:
        """Choose the masked stocks, on the CPU, so that every device masks the same ones."""
        ranked, day = batch.ranked.cpu(), batch.day.cpu()
        masked = torch.zeros(len(day), dtype=torch.bool)
        for index, number in enumerate(batch.day_numbers):
            of_day = torch.nonzero(ranked & (day == index)).squeeze(-1)
            generator = None if self.training else torch.Generator().manual_seed(EVALUATION_SEED + int(number))
            order = torch.randperm(len(of_day), generator=generator)
            masked[of_day[order[: max(1, round(self.mask_ratio * len(of_day)))]]] = True
        return masked.to(batch.ranked.device)
