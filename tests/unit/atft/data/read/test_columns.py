"""Columns with a role: days of instants, codes, and wrong cells that are refused or dropped together."""

import datetime as dt
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atft.data.builder.run import build, build_spec, fingerprint_of, inspect
from atft.data.checks.profile import profile
from atft.data.panel.sidefiles import read_market, read_universe
from atft.data.panel.source import load, source_sha256
from atft.data.read.columns import ColumnReader
from atft.data.read.tables import Table, open_folder, table_from_frame
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec, SideFile

WEEKDAYS = pl.Series([d.item() for d in np.busday_offset(np.datetime64("2023-01-02"), np.arange(60))])


def table_of(column: pa.Array | pl.Series, name: str = "date") -> Table:
    table = pa.table({name: column.to_arrow() if isinstance(column, pl.Series) else column})
    return Table(
        name="p",
        form="frame",
        schema=table.schema,
        num_rows=len(column),
        read=lambda c: iter(table.select(c).to_batches()),
    )


def read_days(column: pa.Array | pl.Series) -> tuple[list[dt.date], list[str]]:
    reader = ColumnReader(table_of(column), ["date"])
    days = reader.dates("date").to_list()
    reader.settle("refuse")
    return days, reader.warnings


def at(hour: int, zone: str | None = None, minute: int = 0) -> pl.Series:
    """The weekdays at a time of day of `zone`."""
    clock = WEEKDAYS.cast(pl.Datetime("us")).dt.offset_by(f"{hour}h{minute}m")
    return clock.dt.replace_time_zone(zone) if zone else clock


@pytest.mark.parametrize("zone", ["+05:30", "-03:30", "+0545", "UTC+9", "Asia/Kolkata", "UTC", "+00:00"])
def test_midnights_of_any_zone_are_its_days(zone: str) -> None:
    minutes = {"+05:30": 330, "-03:30": -210, "+0545": 345, "UTC+9": 540, "Asia/Kolkata": 330}.get(zone, 0)
    utc = WEEKDAYS.cast(pl.Datetime("us")).dt.offset_by(f"{-minutes}m").to_arrow()
    assert read_days(utc.cast(pa.timestamp("us", zone))) == (WEEKDAYS.to_list(), [])


@pytest.mark.parametrize(
    "exchange", ["Asia/Tokyo", "Europe/Berlin", "Asia/Kolkata", "Pacific/Auckland", "Europe/London"]
)
@pytest.mark.parametrize("stored", ["UTC", "naive", "text"])
def test_midnights_east_of_greenwich_in_utc_are_refused(exchange: str, stored: str) -> None:
    days = pl.Series([d.item() for d in np.busday_offset(np.datetime64("2023-01-02"), np.arange(250))])
    column = days.cast(pl.Datetime("us")).dt.replace_time_zone(exchange).dt.convert_time_zone("UTC")
    if stored == "naive":
        column = column.dt.replace_time_zone(None)
    if stored == "text":
        column = column.dt.to_string("%Y-%m-%dT%H:%M:%SZ")
    with pytest.raises(DataError, match=f"holds instants at .*midnights of {exchange}: by their weekdays "):
        read_days(column)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (at(15, "Asia/Tokyo"), "at 15:00 (Asia/Tokyo)"),
        (at(16), "at 16:00 (without a time zone)"),
        (at(21, "UTC"), "at 21:00 (UTC)"),
        (at(5, "UTC"), "in UTC the midnights of America/"),
        (at(23, minute=59), "at 23:59"),
        (at(15).dt.to_string("%Y-%m-%dT%H:%M:%S+09:00"), "at 15:00 (+09:00)"),
    ],
)
def test_times_of_trading_keep_their_day_and_are_told(column: pl.Series, message: str) -> None:
    days, warnings = read_days(column)
    assert days == WEEKDAYS.to_list()
    assert message in warnings[0]


def test_a_few_evening_instants_in_utc_cannot_be_told_apart() -> None:
    wednesday = pl.Series(["2023-04-26T15:00:00"])
    with pytest.raises(DataError, match="they may be midnights of the day after"):
        read_days(wednesday)


def test_the_market_and_universe_files_follow_the_same_rules(tmp_path: Path) -> None:
    late = at(0, "Asia/Tokyo").dt.convert_time_zone("UTC")
    frame = pl.DataFrame({"date": late, "code": "A", "vix": pl.Series(range(60)).cast(pl.Float64).sin()})
    frame.write_parquet(tmp_path / "f.parquet")
    side = SideFile(file=str(tmp_path / "f.parquet"))
    for read in (read_market, read_universe):
        with pytest.raises(DataError, match="midnights of Asia/Tokyo"):
            read(side, "refuse")
    sundays = frame.with_columns(date=late.dt.date())
    sundays.write_parquet(tmp_path / "f.parquet")
    assert "12 of 60 days are Saturdays or Sundays, such as 2023-01-01" in read_market(side, "refuse").warnings[1]
    assert "12 of 60 days are Saturdays or Sundays" in read_universe(side, "refuse").warnings[0]
    for kind in (pl.Float32, pl.Float64):
        written = sundays.with_columns(date=late.dt.date().dt.to_string("%Y%m%d").cast(pl.Float64).cast(kind))
        written.write_parquet(tmp_path / "f.parquet")
        if kind == pl.Float32:
            with pytest.raises(DataError, match="holds float, which cannot tell 20240115 from 20240116"):
                read_universe(side, "refuse")
        else:
            assert read_universe(side, "refuse").value["date"][0] == dt.date(2023, 1, 1)


def test_a_wide_market_files_bad_cells_are_counted_and_row_numbers_passed_over(tmp_path: Path) -> None:
    row = pl.int_range(60, eager=True)
    frame = pl.DataFrame({"": row, "Unnamed: 0": row, "index": row, "date": WEEKDAYS, "note": "x", "vix": row + 0.5})
    spoiled = frame.with_columns(vix=pl.when(row.is_in([3, 7])).then(pl.lit("?")).otherwise(frame["vix"]))
    spoiled.write_csv(tmp_path / "m.csv")
    side = SideFile(file=str(tmp_path / "m.csv"))
    with pytest.raises(
        DataError, match=r"m\.csv has 2 bad cells: column 'vix' is not a number in 2 rows, such as row 4 "
    ):
        read_market(side, "refuse")
    found = read_market(side, "drop")
    assert found.dropped is not None
    assert (found.dropped.num_rows, found.dropped.cells) == (2, {"vix": 2})
    assert found.value.keys() == {"vix"}
    assert len(found.value["vix"][0]) == 58
    assert "['', 'Unnamed: 0', 'index', 'note'] are no series" in str(found.warnings).replace('"', "'")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_codes_of_whole_numbers_are_one_text_in_every_form(tmp_path: Path, form: str) -> None:
    for codes in ([7203.0, 7204.0], [7203, 7204], ["7203.0", "7204"]):
        frame = pl.DataFrame({"year": [2023, 2023], "code": codes})
        frame.write_csv(tmp_path / "u") if form == "csv" else frame.write_parquet(tmp_path / "u")
        found = read_universe(SideFile(file=str(tmp_path / "u")), "refuse").value
        assert found["code"].to_list() == ["7203", "7204"]
    reader = ColumnReader(table_from_frame(pl.DataFrame({"code": ["0001", "7203.0", "A.0"]}), "p"), ["code"])
    assert reader.codes("code").to_list() == ["0001", "7203.0", "A.0"]


def spoiled(prices: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Thirty closes, a date and a volume are no values; written as text to `path`."""
    row = pl.int_range(pl.len())
    bad = prices.with_columns(
        close=pl.when(row.is_between(100, 129)).then(pl.lit("#REF!")).otherwise(pl.col("close").cast(pl.String)),
        date=pl.when(row == 200).then(pl.lit("soon")).otherwise(pl.col("date").cast(pl.String)),
        volume=pl.when(row == 101).then(-1.0).otherwise("volume"),
        own=(row * 0.7).sin(),
    )
    bad.write_csv(path)
    return bad.filter(~row.is_between(100, 129) & (row != 200))


def test_all_bad_cells_are_counted_and_twenty_are_named(prices: pl.DataFrame, tmp_path: Path) -> None:
    spoiled(prices, tmp_path / "p.csv")
    with pytest.raises(DataError, match=r"p\.csv has 32 bad cells: .*drop leaves out") as caught:
        load(DatasetSpec(name="x", path=str(tmp_path / "p.csv"), horizons=(1, 5)))
    text = str(caught.value)
    assert text.count("such as row") + text.count("; row") == 20
    assert "'date' is not a date in 1 rows, such as row 201 B0" in text
    assert "'close' is not a number in 30 rows, such as row 101 2020-01-1" in text


def test_dropped_rows_leave_the_rest_as_it_is_and_stand_in_the_profile(prices: pl.DataFrame, tmp_path: Path) -> None:
    spoiled(prices, tmp_path / "p.csv").write_csv(tmp_path / "good.csv")
    kept = load(DatasetSpec(name="x", path=str(tmp_path / "p.csv"), horizons=(1, 5), on_bad_cell="drop"))
    good = load(DatasetSpec(name="x", path=str(tmp_path / "good.csv"), horizons=(1, 5)))
    assert kept.frame.equals(good.frame)
    assert kept.extra["own"].total == pytest.approx(good.extra["own"].total)
    about = profile(kept)
    assert kept.dropped[0].cells == {"date": 1, "close": 30, "volume": 1}
    assert about["dropped_rows"] == [kept.dropped[0].to_json()]
    assert "p.csv: on_bad_cell: drop leaves out 31 rows, for 32 bad cells" in str(about["warnings"])


def test_rules_that_came_later_stand_in_the_fingerprint_where_they_matter(prices: pl.DataFrame, tmp_path: Path) -> None:
    def inspected(frame: pl.DataFrame, name: str = "p.parquet", **settings: object) -> dict[str, object]:
        frame.write_csv(tmp_path / name) if name.endswith("csv") else frame.write_parquet(tmp_path / name)
        spec = DatasetSpec.model_validate({"name": "x", "path": str(tmp_path / name), "horizons": (1, 5), **settings})
        found = inspect(spec)
        before = fingerprint_of(spec, str(found["source_sha256"]))
        return found | {"as_before": found["fingerprint"] == before}

    row = pl.int_range(pl.len()).cast(pl.Float64)
    index = prices.with_columns(index=row, constant=1.0, unnamed=pl.lit("x")).rename({"unnamed": "Unnamed: 0"})
    codes = prices.with_columns(code=7200.0 + pl.col("code").str.tail(2).cast(pl.Float64))
    assert inspected(prices)["as_before"]
    assert not inspected(index)["as_before"]
    assert inspected(index.with_columns(index=pl.lit(2)))["as_before"]  # it was constant, and is
    assert inspected(index, features=("return_1",))["as_before"]
    assert inspected(codes)["as_before"]
    assert not inspected(codes, "p.csv")["as_before"]
    market = pl.DataFrame({"date": WEEKDAYS.head(2), "Unnamed: 0": [0, 1], "vix": [1.0, 2.0]})
    market.write_csv(tmp_path / "m.csv")
    market.drop("Unnamed: 0").write_csv(tmp_path / "plain.csv")
    assert not inspected(prices, market=SideFile(file=str(tmp_path / "m.csv")))["as_before"]
    assert inspected(prices, market=SideFile(file=str(tmp_path / "plain.csv")))["as_before"]


@pytest.mark.parametrize("own", ["index", "score"])
def test_a_cache_of_other_rules_is_not_taken_for_todays(prices: pl.DataFrame, tmp_path: Path, own: str) -> None:
    frame = prices.with_columns(pl.int_range(pl.len()).cast(pl.Float64).sin().alias(own), more=pl.col("close").sin())
    frame.write_parquet(tmp_path / "p.parquet")
    spec = DatasetSpec(name="x", path=str(tmp_path / "p.parquet"), horizons=(1, 5), build_features=False)
    known = tmp_path / "known"

    def rebuilt() -> tuple[str, bool]:
        events: list[object] = []
        found = build(spec, tmp_path / "new", events.append, lambda: False, known)
        again = (tmp_path / "new").exists()
        if again:
            (tmp_path / "new").rename(known / found.manifest.fingerprint)
        return found.manifest.fingerprint, again

    known.mkdir()
    first, _ = rebuilt()
    assert rebuilt() == (first, False)
    report = json.loads((known / first / "report.json").read_bytes())
    del report["later_rules"]  # as an older release wrote it, with `index` among its features
    before = known / fingerprint_of(spec, source_sha256(spec))
    if before.name != first:
        shutil.copytree(known / first, before)
        manifest = json.loads((before / "manifest.json").read_bytes()) | {"fingerprint": before.name}
        (before / "manifest.json").write_text(json.dumps(manifest))
    (before / "report.json").write_text(json.dumps(report))
    assert rebuilt() == (first, False)
    assert (before.name == first) == (own == "score")


def test_settings_of_reading_at_their_default_leave_the_fingerprint() -> None:
    plain = build_spec(DatasetSpec(name="x", path="p", market=SideFile(file="m")))
    assert "on_bad_cell" not in plain
    assert "decimal" not in plain
    assert plain["market"] == {"columns": {}}
    changed = DatasetSpec(name="x", path="p", on_bad_cell="drop", market=SideFile(file="m", decimal=","))
    assert build_spec(changed)["on_bad_cell"] == "drop"
    assert build_spec(changed)["market"] == {"columns": {}, "decimal": ","}


def test_files_of_a_folder_mix_text_and_days_and_name_what_does_not(tmp_path: Path) -> None:
    first = pa.table({"date": pa.array([dt.date(2023, 1, 2)]), "code": pa.array(["A"]).dictionary_encode(), "x": [1.0]})
    second = pa.table({"date": pa.array([dt.date(2023, 1, 3)]).cast(pa.timestamp("us")), "code": ["B"], "x": [2.0]})
    pq.write_table(first, tmp_path / "a.parquet")
    pq.write_table(second, tmp_path / "b.parquet")
    reader = ColumnReader(open_folder(tmp_path), ["date", "code"])
    assert reader.dates("date").to_list() == [dt.date(2023, 1, 2), dt.date(2023, 1, 3)]
    assert reader.codes("code").to_list() == ["A", "B"]
    pq.write_table(second.set_column(1, "code", pa.array([7203])), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"column 'code' is int64 in b\.parquet and dictionary.* in a\.parquet"):
        open_folder(tmp_path)


def test_row_numbers_are_no_features(prices: pl.DataFrame, tmp_path: Path) -> None:
    row = pl.int_range(pl.len()).cast(pl.Float64)
    frame = prices.with_columns(
        index=row.sin(), counted=3 * row + 5, falling=-row, nearly=pl.when(row == 900).then(0.5).otherwise(row)
    )
    frame.with_columns(row.cos().alias("Unnamed: 0.1")).write_parquet(tmp_path / "p.parquet")
    source = load(DatasetSpec(name="x", path=str(tmp_path / "p.parquet"), horizons=(1, 5)))
    for name in ("index", "counted", "falling", "Unnamed: 0.1"):
        assert source.extra[name].useless_reason == "a row number"
    assert source.extra["nearly"].useless_reason is None


def test_days_without_trading_that_were_filled_in_are_told(prices: pl.DataFrame, tmp_path: Path) -> None:
    fridays = prices.filter(pl.col("date").dt.weekday() == 5)
    pl.concat([prices, fridays.with_columns(pl.col("date").dt.offset_by("2d"))]).write_parquet(tmp_path / "p.parquet")
    about = profile(load(DatasetSpec(name="x", path=str(tmp_path / "p.parquet"), horizons=(1, 5))))
    warned = {check["check"]: check["value"] for check in about["checks"] if check["state"] == "warn"}  # type: ignore[attr-defined]
    number = float(fridays["date"].n_unique())
    assert (warned["weekend_days"], warned["still_days"]) == (number, number)
