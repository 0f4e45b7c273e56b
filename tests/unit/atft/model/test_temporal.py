import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from atft.model.temporal import LastDayAttention, Temporal, initial_recency_bias


def test_attention_equals_full_multi_head_attention_read_at_the_last_day() -> None:
    torch.manual_seed(0)
    hidden, heads = 8, 2
    attention = LastDayAttention(window=5, hidden_size=hidden, heads=heads)
    x = torch.randn(5, 3, hidden)
    encoded = x + attention.position
    weight = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
    bias = torch.cat([attention.query.bias, torch.zeros(hidden), attention.value.bias])
    full, _ = F.multi_head_attention_forward(
        encoded,
        encoded,
        encoded,
        hidden,
        heads,
        weight,
        bias,
        None,
        None,
        False,
        0.0,
        attention.out.weight,
        attention.out.bias,
        attn_mask=attention.recency.unsqueeze(1).expand(heads, 5, 5).repeat(3, 1, 1),  # of the last query, for each
    )
    torch.testing.assert_close(attention(x), full[-1])


def test_attention_sees_the_order_of_the_days() -> None:
    torch.manual_seed(0)
    attention = LastDayAttention(window=5, hidden_size=8, heads=2)
    x = torch.randn(5, 3, 8)
    shuffled = x[[1, 0, 2, 3, 4]]
    assert not torch.allclose(attention(x), attention(shuffled), atol=1e-6)


def test_the_temporal_block_reads_every_day_of_every_channel() -> None:
    torch.manual_seed(0)
    temporal = Temporal(window=6, hidden_size=4, attention_heads=2, context_size=0, dropout=0.0)
    x = torch.randn(6, 3, 4, requires_grad=True)
    temporal(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_heads_start_with_half_lives_from_a_day_to_the_window() -> None:
    weights = torch.softmax(initial_recency_bias(4, 20), dim=-1)
    assert weights[0, -1] / weights[0, -2] == pytest.approx(2)
    assert weights[3, -1] / weights[3, 0] == pytest.approx(2 ** (19 / 20))
    ages = weights @ torch.arange(19, -1, -1.0)
    assert (ages.diff() > 0).all()
    assert initial_recency_bias(1, 20).shape == (1, 20)


def test_half_of_many_heads_start_with_one_period_of_a_cosine_over_the_window() -> None:
    weights = torch.softmax(initial_recency_bias(8, 20), dim=-1)
    assert torch.equal(weights[:4], torch.softmax(initial_recency_bias(4, 20), dim=-1))
    angle = 2 * torch.pi * torch.arange(19, -1, -1) / 20
    for phase, wave in ((4, torch.cos(angle)), (5, torch.sin(angle))):
        difference = weights[phase] - weights[phase + 2]
        assert torch.corrcoef(torch.stack([difference, wave]))[0, 1] > 0.95
