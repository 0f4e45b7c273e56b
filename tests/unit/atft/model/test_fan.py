import pytest
import torch

from atft.model.fan import Fan, FrequencyDropout, FrequencyNormalization, Spectrum, top_frequencies

WINDOWS = [2, 3, 8, 9, 20, 64, 65, 66, 101]


@pytest.mark.parametrize("window", WINDOWS)
def test_spectrum_inverts_and_measures_the_power_of_rfft(window: int) -> None:
    torch.manual_seed(0)
    spectrum = Spectrum(window)
    x = torch.randn(window, 5, dtype=torch.float64)
    coefficients = spectrum(x)
    torch.testing.assert_close(spectrum.inverse(coefficients), x)
    torch.testing.assert_close(spectrum.power(coefficients), torch.fft.rfft(x, dim=0).abs().square())


def definition(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Residual and kept |X| of one series, as the paper writes it, with a Python loop over the frequencies."""
    transformed = torch.fft.rfft(x)
    size = transformed.abs().tolist()
    kept = sorted(range(len(size)), key=lambda k: (-size[k], k))[:count]
    main = torch.zeros_like(transformed)
    for k in kept:
        main[k] = transformed[k]
    return x - torch.fft.irfft(main, n=len(x)), torch.tensor([size[k] for k in kept], dtype=x.dtype)


@pytest.mark.parametrize(("window", "count"), [(8, 1), (9, 2), (20, 4), (20, 11), (61, 4), (70, 4), (71, 9)])
def test_fan_is_its_definition_in_float64(window: int, count: int) -> None:
    torch.manual_seed(0)
    fan = FrequencyNormalization(window=window, top_k=count)
    x = torch.randn(window, 3, 2, dtype=torch.float64)
    residual, amplitudes = fan(x)
    for stock in range(3):
        for channel in range(2):
            expected, size = definition(x[:, stock, channel], count)
            torch.testing.assert_close(residual[:, stock, channel], expected, atol=1e-10, rtol=0)
            torch.testing.assert_close(amplitudes[:, stock, channel] * window, size, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("window", [9, 20, 70])
def test_fan_is_idempotent_and_its_residual_orthogonal(window: int) -> None:
    torch.manual_seed(0)
    fan = FrequencyNormalization(window=window, top_k=3)
    x = torch.randn(window, 4, 3)
    residual, _ = fan(x)
    main = x - residual
    again, _ = fan(main)
    torch.testing.assert_close(again, torch.zeros_like(again), atol=1e-5, rtol=0)
    torch.testing.assert_close((main * residual).sum(dim=0), torch.zeros(4, 3), atol=1e-4, rtol=0)


def test_ties_go_to_the_lower_frequency_by_both_ways_of_sorting() -> None:
    power = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [0.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    expected = [[0, 1, 3], [1, 2, 0]]
    assert top_frequencies(power, 2).tolist() == expected
    many = torch.randint(0, 4, (40, 50), generator=torch.Generator().manual_seed(0)).float()
    for count in (8, 9):
        assert torch.equal(top_frequencies(many, count), many.sort(dim=0, descending=True, stable=True).indices[:count])


@pytest.mark.parametrize("window", [7, 8, 65])
def test_fan_gradcheck(window: int) -> None:
    torch.manual_seed(0)
    fan = FrequencyNormalization(window=window, top_k=2)
    x = torch.randn(window, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fan, (x,), fast_mode=True)


def test_fan_keeps_the_level_that_ranks_stocks() -> None:
    """The residual alone loses which stock is higher; x + residual does not."""
    torch.manual_seed(0)
    level = torch.randn(200, 1)
    x = (level + 0.1 * torch.randn(200, 20)).T.unsqueeze(-1)
    days, _ = Fan(window=20, hidden_size=1, top_k=4)(x)
    assert torch.corrcoef(torch.stack([days[-1, :, 0], level[:, 0]]))[0, 1] > 0.95


def test_a_constant_window_has_a_finite_gradient() -> None:
    fan = Fan(window=8, hidden_size=2, top_k=2)
    x = torch.zeros(8, 3, 2, requires_grad=True)
    days, side = fan(x)
    (days.sum() + side.sum()).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("top_k", [0, 6])
def test_impossible_top_k_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        FrequencyNormalization(window=8, top_k=top_k)


def test_frequency_dropout_keeps_the_level_and_the_mean() -> None:
    torch.manual_seed(0)
    dropout = FrequencyDropout(window=8, rate=0.5)
    x = torch.randn(8, 1, 2)
    assert torch.equal(dropout.eval()(x), x)
    many = dropout.train()(x.expand(8, 4000, 2))
    torch.testing.assert_close(many.mean(dim=0), x.mean(dim=0).expand(4000, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(many.mean(dim=1), x[:, 0], atol=0.1, rtol=0)
    assert not torch.allclose(many[:, 0], many[:, 1])
