"""The ten leaks of science.md 6, each under its number on planted data. Every screen is also shown a leak that was put
there on purpose: a screen that cannot find it would be no screen.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from atft.data.builder.run import build
from atft.data.cache.batch import Batch
from atft.data.cache.graph import DayGraph, day_graph
from atft.data.cache.reader import Cache
from atft.data.cache.windows import DayReader
from atft.data.features import compute
from atft.data.features.compute import Feature, feature_set, with_returns
from atft.data.panel.planted import LEAK_NAME, generate
from atft.data.schema import DataError
from atft.events import Event, Log
from atft.metrics.portfolio import evaluate
from atft.spec.data import DatasetSpec, PlantedSpec
from atft.spec.job import TrainSpec
from atft.spec.model import GraphSpec
from atft.spec.reason import Reason
from atft.spec.training import EvaluationSpec

Run, Make = Callable[..., Any], Callable[..., TrainSpec]
Matrix = NDArray[np.floating]
CODES, DAYS = 30, 160


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    """Closes of a planted panel without any signal, with halts, listings and delistings."""
    panel = generate(PlantedSpec(num_codes=CODES, num_days=DAYS, mode="null", seed=4), (1, 5))
    return pl.DataFrame(
        {
            "date": panel.days[panel.day_index],
            "code": np.asarray(panel.codes)[panel.code_index],
            "close": panel.close,
        }
    ).sort("code", "date")


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., Cache]:
    def make(frame: pl.DataFrame | None = None, name: str = "a", **settings: object) -> Cache:
        if frame is not None:
            frame.write_parquet(tmp_path / f"{name}.parquet")
            settings["path"] = str(tmp_path / f"{name}.parquet")
        spec = DatasetSpec.model_validate({"name": "leaks", "horizons": (1, 5), **settings})
        build(spec, tmp_path / name, heard.append, lambda: False)
        return Cache.open(tmp_path / name)

    heard: list[Event] = []
    make.heard = heard  # type: ignore[attr-defined]
    return make


def later(frame: pl.DataFrame, *columns: str, after: int = 100) -> pl.DataFrame:
    """`frame` with `columns` times a random walk of each code after trading day number `after`."""
    late = pl.col("date") > frame["date"].unique().sort()[after]
    steps = frame.with_columns(step=pl.Series(0.03 * np.random.default_rng(1).standard_normal(frame.height)))
    walk = pl.when(late).then("step").otherwise(0.0).cum_sum().over("code", order_by="date").exp()
    changed = steps.with_columns(pl.when(late).then(pl.col(c) * walk).otherwise(c).alias(c) for c in columns)
    return changed.drop("step")


def test_leak_01_a_window_is_the_last_days_of_its_own_stock(cache: Cache, make_spec: Make) -> None:
    reader = DayReader(cache, make_spec().data, None, torch.device("cpu"))
    width = len(cache.feature_names)
    W = reader.data.window

    def equals_brute_force(batch: Batch) -> bool:
        for row, window in zip(batch.rows, batch.windows, strict=True):
            code, day = cache.code_index[row], cache.day_index[row]
            want = [
                cache.features[(cache.code_index == code) & (cache.day_index == d)][0]
                for d in range(day - W + 1, day + 1)
            ]
            if not np.array_equal(batch.x[window][:, :width].numpy(), np.stack(want)):
                return False
        return True

    batch = reader.batch(np.arange(60, 63))
    assert equals_brute_force(batch)
    ahead = (batch.windows + 1).clamp(max=len(batch.x) - 1)
    assert not equals_brute_force(dataclasses.replace(batch, windows=ahead))


def test_leak_02_predictions_do_not_see_labels_of_their_day_or_later(cache: Cache, make_spec: Make, run: Run) -> None:
    """Train, select the best epoch and predict the test days with all labels from day t on replaced by noise."""
    spec = make_spec(**{"trainer.max_epochs": 2})
    number = {str(day): n for n, day in enumerate(cache.days)}

    def test_scores(result: Any) -> Matrix:
        table = pl.read_parquet(result.out / "predictions.parquet").filter(pl.col("split") == "test")
        return table.sort("date", "code").select("score_1d", "score_5d").to_numpy()

    def with_noise_from(day: str) -> Matrix:
        other = Cache.open(cache.path)  # its map is private: nothing reaches the file
        rows = other.day_index >= number[day]
        other.targets[rows] = np.random.default_rng(2).standard_normal((int(rows.sum()), 2)).astype(np.float32)
        return test_scores(run(spec, f"noise-{day}", on=other))

    result = run(spec, "honest")
    days, honest = result.evidence["data"], test_scores(result)
    assert len(honest) > 100
    np.testing.assert_array_equal(with_noise_from(days["test_days"][0]), honest)
    assert not np.array_equal(with_noise_from(days["train_days"][0]), honest)


def ready(closes: pl.DataFrame, entry: int) -> pl.DataFrame:
    """Ready features and targets, entered `entry` days after the features' day."""
    rng = np.random.default_rng(3)
    c = pl.col("close")
    return closes.select(
        "date",
        "code",
        (c / c.shift(1) - 1).over("code").alias("return_1d"),
        *((c.shift(-entry - h) / c.shift(-entry) - 1).over("code").alias(f"target_{h}d") for h in (1, 5)),
        noise=pl.Series(rng.standard_normal(closes.height)),
        past=(c / c.shift(5) - 1).over("code"),
    )


def test_leak_03_labels_enter_at_the_next_close(closes: pl.DataFrame, built: Callable[..., Cache]) -> None:
    assert built(ready(closes, 1), "right").feature_names == ("noise", "past")
    with pytest.raises(
        DataError, match=r"'target_1d' starts at close\(t\), 'target_5d' starts at close\(t\)"
    ) as caught:
        built(ready(closes, 0), "early")
    assert caught.value.reason == Reason.LEAK_SUSPECTED
    past = ready(closes, 1).with_columns(target_5d="past")
    with pytest.raises(DataError, match="'target_5d' is the past return"):
        built(past, "past")
    with pytest.raises(DataError, match="'target_5d' is the past return"):  # and nobody can vouch for a label
        built(past, "vouched", allow_leaks=("past",))
    built(ready(closes, 1).drop("return_1d"), "unknown")
    assert any("cannot be checked" in e.message for e in built.heard if isinstance(e, Log))  # type: ignore[attr-defined]


def test_leak_04_later_rows_change_no_earlier_feature(closes: pl.DataFrame) -> None:
    """The expressions themselves, on the rows that the build gives them."""

    def moved(wanted: list[Feature]) -> list[str]:
        found = []
        for frame in (closes, later(closes, "close")):
            numbered = frame.select(
                pl.col("code").rank("dense").alias("code"), pl.col("date").rank("dense").sub(1).alias("day"), "close",
                valid=pl.lit(value=True), sector=pl.col("code").rank("dense").cast(pl.Int32) % 3,
            )  # fmt: skip
            rows = with_returns(numbered)
            blocks = [block for _, block in compute.blocks(rows, wanted)]
            found.append(pl.concat(blocks, how="horizontal").filter(rows["day"] <= 100))
        return [c for c in found[0].columns if not found[0][c].equals(found[1][c], null_equal=True)]

    honest = feature_set(["close", "sector"])
    ahead = Feature(name="ahead", formula="c[-1] / c - 1", value=pl.col("close").shift(-1) / pl.col("close") - 1)
    whole = Feature(name="whole", formula="c / mean of all c", value=pl.col("close") / pl.col("close").mean())
    assert moved(honest) == []
    assert moved([*honest, ahead, whole]) == ["ahead", "whole"]


def test_leak_05_the_metric_rewards_the_ranking_within_the_day_and_nothing_else() -> None:
    """Days of different level: a metric over all days at once would reward knowing the day."""
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(120), 50)
    level = 0.05 * rng.standard_normal(120)[day]
    target = 0.02 * rng.standard_normal(len(day)) + level
    score = target + 0.02 * rng.standard_normal(len(day))
    within = np.lexsort((rng.random(len(day)), day))  # a permutation inside each day
    code = np.tile(np.arange(50), 120)

    def metrics(values: Matrix) -> tuple[float, float]:
        outcome = evaluate(
            scores=values[:, None], targets=target[:, None], day=day, code=code, dates=[str(d) for d in range(120)],
            horizons=(1,), min_names=30, evaluation=EvaluationSpec(),
        )  # fmt: skip
        rank_ic, sharpe = outcome.values["rank_ic"], outcome.values["sharpe_ann"]
        assert rank_ic is not None
        assert sharpe is not None
        return rank_ic, sharpe

    skilled, shuffled = metrics(score), metrics(score[within])
    assert skilled[0] > 0.5
    assert abs(shuffled[0]) < 0.03
    assert shuffled[1] < 0.2 * skilled[1]
    assert np.corrcoef(score[within], target)[0, 1] > 0.5  # what a metric over all days would have measured


COLUMNS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "copy": lambda c: c.shift(-6) / c.shift(-1) - 1,
    "scaled": lambda c: 7 - 40 * (c.shift(-2) / c.shift(-1) - 1),
    "next": lambda c: c.shift(-1) / c - 1,  # in no target, for those start at the next close
    "old_target": lambda c: c.shift(-3) / c.shift(2) - 1,  # target_5d of three days ago
}


@pytest.mark.parametrize("name", list(COLUMNS))
def test_leak_06_a_column_that_knows_the_future_is_refused(
    closes: pl.DataFrame, built: Callable[..., Cache], name: str
) -> None:
    leaking = closes.with_columns(COLUMNS[name](pl.col("close")).over("code").alias("quality"))
    with pytest.raises(DataError, match="'quality' has a mean daily RankIC") as caught:
        built(leaking, build_features=False)
    assert caught.value.reason == Reason.LEAK_SUSPECTED
    cache = built(leaking, "vouched", build_features=False, allow_leaks=("quality",))
    assert cache.manifest.build_spec["allow_leaks"] == ["quality"]


def test_leak_06_honest_columns_pass_and_the_planted_leak_does_not(
    closes: pl.DataFrame, built: Callable[..., Cache]
) -> None:
    honest = closes.with_columns((pl.col("close") / pl.col("close").shift(5) - 1).over("code").alias("quality"))
    assert built(honest, build_features=False).feature_names == ("quality",)
    with pytest.raises(DataError, match=LEAK_NAME):
        built(None, "leak", planted=PlantedSpec(num_codes=30, num_days=120, num_features=6, mode="leak"))
    with pytest.raises(DataError, match="'fwd_return' is named like a target"):
        built(honest.rename({"quality": "fwd_return"}), "named", build_features=False)


def test_leak_06_allowed_leaks_are_in_the_evidence_of_every_run(
    built: Callable[..., Cache], make_spec: Make, run: Run, cache: Cache
) -> None:
    leaking = PlantedSpec(num_codes=24, num_days=120, num_features=5, mode="leak", seed=1)
    vouched = built(None, planted=leaking, allow_leaks=(LEAK_NAME,))
    assert run(make_spec(**{"trainer.max_epochs": 1}), on=vouched).evidence["data"]["allowed_leaks"] == [LEAK_NAME]
    assert run(make_spec(**{"trainer.max_epochs": 1}), "other").evidence["data"]["allowed_leaks"] == []


def test_leak_07_a_rank_ic_too_good_to_be_true_is_flagged(
    built: Callable[..., Cache], make_spec: Make, run: Run
) -> None:
    planted = PlantedSpec(num_codes=24, num_days=120, num_features=5, signal=1.0, mode="theory", seed=1)
    cache = built(None, planted=planted)
    result = run(make_spec(**{"trainer.max_epochs": 2}), on=cache)
    warnings_of_run = [e.message for e in result.of(Log) if e.level == "warning"]
    assert any(text.startswith("val: RankIC of 1 days") and "look for a leak" in text for text in warnings_of_run)
    assert cache.oracle is not None
    rows = np.flatnonzero(cache.valid & np.isfinite(cache.targets).all(axis=1))
    noise = np.random.default_rng(0).standard_normal((len(rows), 2)).astype(np.float32)
    for scores, expected in ((cache.oracle["true"][rows], 2), (noise, 0)):
        outcome = evaluate(
            scores=scores, targets=cache.targets[rows], day=cache.day_index[rows].astype(np.int64),
            code=cache.code_index[rows].astype(np.int64), dates=[str(d) for d in cache.days], horizons=(1, 5),
            min_names=5, evaluation=EvaluationSpec(),
        )  # fmt: skip
        assert sum("look for a leak" in text for text in outcome.warnings) == expected


def test_leak_08_a_universe_chosen_with_later_data(closes: pl.DataFrame, built: Callable[..., Cache]) -> None:
    c = pl.col("close")
    past = (c.shift(1) / c.shift(6)).over("code")
    future = (c.shift(-6) / c.shift(-1)).over("code")

    def listed(score: pl.Expr) -> pl.DataFrame:
        scored = closes.with_columns(score=score)
        chosen = pl.col("score").rank().over("date") > 0.5 * pl.col("score").count().over("date")
        return scored.with_columns(in_universe=chosen.fill_null(value=False)).drop("score")

    built(listed(past), "past")
    with pytest.raises(DataError, match="'in_universe' has a mean daily RankIC"):
        built(listed(future), "future")
    built(listed(future), "vouched", allow_leaks=("in_universe",))


def test_leak_08_signs_of_hindsight_give_a_warning(built: Callable[..., Cache]) -> None:
    """Three years; lists of the largest by traded value of the year before, of the year itself, and one for ever."""
    panel = generate(PlantedSpec(num_codes=60, num_days=600, num_features=4, mode="null", seed=2), (1, 5))
    rng = np.random.default_rng(0)
    size = np.cumsum(rng.standard_normal((4, 60)), axis=0)  # it changes from year to year
    date = panel.days[panel.day_index]
    year = date.astype("datetime64[Y]").astype(int) - 40
    frame = pl.DataFrame(
        {
            "date": date, "code": np.asarray(panel.codes)[panel.code_index], "close": panel.close,
            "volume": np.exp(size[year, panel.code_index] + 0.1 * rng.standard_normal(len(date))) * 1e6 / panel.close,
        }
    )  # fmt: skip
    top = np.argsort(np.argsort(-size, axis=1), axis=1) < 20

    def warnings(name: str, member: NDArray[np.bool_]) -> str:
        built.heard.clear()  # type: ignore[attr-defined]
        built(frame.with_columns(in_universe=pl.Series(member)), name, features=("return_5",))
        return " ".join(e.message for e in built.heard if isinstance(e, Log))  # type: ignore[attr-defined]

    honest = warnings("before", top[np.maximum(year - 1, 0), panel.code_index])
    assert "later data" not in honest
    assert "same names" not in honest
    assert "later data" in warnings("same", top[year, panel.code_index])
    assert "same names from the first day" in warnings("ever", top[2, panel.code_index])


def test_leak_09_later_returns_change_no_earlier_edge(
    closes: pl.DataFrame, built: Callable[..., Cache], tmp_path: Path
) -> None:
    spec = GraphSpec(correlation_window=20, half_life=10, neighbours=3, threshold=0.1, refresh_days=10)
    last = 99  # a refresh day
    caches = [built(closes, "a"), built(later(closes, "close", after=last), "b")]

    def graphs(name: str, ahead: int) -> list[DayGraph]:
        """Of both panels, with returns that come `ahead` days too early."""
        made = []
        for cache in caches:
            folder = tmp_path / f"{cache.path.name}-{name}"
            shutil.copytree(cache.path, folder, ignore=shutil.ignore_patterns("graphs"))
            copy = Cache.open(folder)
            copy.returns[: len(copy.returns) - ahead] = copy.returns[ahead:].copy()
            made.append(day_graph(copy, spec, lambda _: None))
        return made

    def same(pair: list[DayGraph]) -> bool:
        codes = np.arange(CODES)
        edges = [[g.edges(int(day), codes) for day in g.days[g.days <= last]] for g in pair]
        return all(np.array_equal(x, y) for a, b in zip(*edges, strict=True) for x, y in zip(a, b, strict=True))

    assert same(graphs("honest", 0))
    assert not same(graphs("ahead", 1))


def test_leak_10_no_normaliser_sees_later_days(closes: pl.DataFrame, built: Callable[..., Cache]) -> None:
    """A stock's column, a market-wide one, built features; a scaler fitted on all days is what it must not be."""
    rng = np.random.default_rng(6)
    daily = closes.select("date").unique().sort("date")
    daily = daily.with_columns(fear=pl.Series(np.cumsum(rng.standard_normal(daily.height)) + 30))
    frame = closes.with_columns(quality=pl.Series(rng.standard_normal(closes.height))).join(daily, on="date")
    both = [frame.sort("code", "date"), later(frame.sort("code", "date"), "close", "quality")]
    both[1] = both[1].with_columns(
        fear=pl.when(pl.col("date") > frame["date"].unique().sort()[100]).then(-5.0).otherwise("fear")
    )

    def early_change(frames: list[pl.DataFrame], name: str) -> set[str]:
        one, two = (built(f, f"{name}{n}") for n, f in enumerate(frames))
        early = one.day_index <= 100
        stock = {n for j, n in enumerate(one.feature_names) if (one.features[early, j] != two.features[early, j]).any()}
        market = {n for j, n in enumerate(one.market_names) if (one.market[:101, j] != two.market[:101, j]).any()}
        return stock | market

    assert early_change(both, "honest") == set()
    z = pl.col("quality")
    clipped = [f.with_columns(quality=((z - z.mean()) / z.std()).clip(-0.5, 1.5)) for f in both]
    assert early_change(clipped, "fitted") == {"quality"}
