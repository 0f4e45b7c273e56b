import numpy as np
import pytest

from atft.linear.ridge import PENALTIES, Ridge, fit_ridge
from atft.linear.sums import NUM_BLOCKS, BlockSums

SEAM = 4
DAYS = np.concatenate([np.arange(10, 60), np.arange(75, 110)])
SAMPLES, COLUMNS, HORIZONS = 12, 5, 2


def draw(signal: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The day, columns and labels of each sample, without their means over the day."""
    rng = np.random.default_rng(1)
    day = np.repeat(DAYS, SAMPLES)
    x = rng.normal(size=(len(day), COLUMNS)) @ np.diag([1.0, 0.5, 2.0, 0.1, 1.0])
    y = signal * x[:, :HORIZONS] + rng.normal(size=(len(day), HORIZONS))
    for number in DAYS:
        x[day == number] -= x[day == number].mean(axis=0)
        y[day == number] -= y[day == number].mean(axis=0)
    return day, x, y


def fit(day: np.ndarray, x: np.ndarray, y: np.ndarray, seam: int = SEAM) -> Ridge:
    sums = BlockSums(DAYS, seam, COLUMNS, HORIZONS)
    for number in np.unique(day):
        sums.add(int(number), x[day == number], y[day == number])
    return fit_ridge(sums)


def dense(day: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Ridge by its textbook formula, its penalty by an explicit loop over left-out blocks."""

    def solve(rows: np.ndarray, penalty: float, h: int) -> np.ndarray:
        gram = x[rows].T @ x[rows]
        scale = np.trace(gram) / COLUMNS
        return np.linalg.solve(gram + penalty * scale * np.eye(COLUMNS), x[rows].T @ y[rows, h])

    blocks = np.split(DAYS, (np.arange(1, NUM_BLOCKS) * len(DAYS) / NUM_BLOCKS).astype(int))
    coefficients, penalties = np.zeros((COLUMNS, HORIZONS)), []
    for h in range(HORIZONS):
        errors = []
        for penalty in PENALTIES:
            error = 0.0
            for number, block in enumerate(blocks):
                near = set(block)
                if number > 0:
                    near |= {d for d in blocks[number - 1] if blocks[number][0] - d <= SEAM}
                if number < NUM_BLOCKS - 1:
                    near |= {d for d in blocks[number + 1] if d - blocks[number + 1][0] < SEAM}
                rows, judged = ~np.isin(day, list(near)), np.isin(day, block)
                error += ((y[judged, h] - x[judged] @ solve(rows, penalty, h)) ** 2).sum()
            errors.append(error)
        penalties.append(PENALTIES[int(np.argmin(errors))])
        coefficients[:, h] = solve(np.full(len(day), True), penalties[-1], h)
    return coefficients, penalties


def test_equal_to_a_dense_computation() -> None:
    day, x, y = draw()
    coefficients, penalties = dense(day, x, y)
    found = fit(day, x, y)
    assert list(found.penalties) == penalties
    np.testing.assert_allclose(found.coefficients, coefficients, atol=1e-8, rtol=1e-8)
    np.testing.assert_allclose(x @ found.coefficients, x @ coefficients, atol=1e-8)
    assert found.no_signal == (False, False)


def test_a_day_left_out_changes_the_fit_as_the_dense_one() -> None:
    day, x, y = draw()
    kept = day != DAYS[20]
    found = fit(day[kept], x[kept], y[kept])
    np.testing.assert_allclose(found.coefficients, dense(day[kept], x[kept], y[kept])[0], atol=1e-8)
    assert np.abs(found.coefficients - fit(day, x, y).coefficients).max() > 1e-5


def test_noise_gets_the_largest_penalties_and_says_so() -> None:
    day, x, y = draw(signal=0.0)
    rng = np.random.default_rng(5)
    y = rng.normal(size=y.shape)
    found = [fit(day, x, rng.permuted(y, axis=0)) for _ in range(40)]
    none = np.mean([one.no_signal for one in found])
    assert none > 0.5
    quiet = next(one for one in found if one.no_signal == (True, True))
    assert np.abs(quiet.coefficients).max() < 1e-7


@pytest.mark.parametrize("seam", [1, 100])
def test_seams_as_long_as_a_block_leave_all_of_it_out(seam: int) -> None:
    day, x, y = draw()
    sums = BlockSums(DAYS, seam, COLUMNS, HORIZONS)
    for number in np.unique(day):
        sums.add(int(number), x[day == number], y[day == number])
    rests = [rest.samples for rest, _ in sums.splits()]
    block = len(DAYS) // NUM_BLOCKS * SAMPLES
    whole = len(day)
    assert sum(judged.samples for _, judged in sums.splits()) == whole
    if seam == 1:
        assert rests == [whole - block - SAMPLES, *[whole - block - 2 * SAMPLES] * 3, whole - block - SAMPLES]
    else:
        assert rests == [whole - 2 * block, *[whole - 3 * block] * 3, whole - 2 * block]
