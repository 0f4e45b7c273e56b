"""Tables with a column for each stock, of one or two levels of names, are the panel that their rows would make."""

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from atft.data.builder.run import inspect
from atft.data.panel.source import load
from atft.data.read.wide import find_layout
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec

FIELDS = {"open": "Open", "high": "High", "low": "Low", "close": "Close", "volume": "Volume"}


def spec(path: Path, **settings: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "path": str(path), "horizons": (1, 5), **settings})


def read(path: Path, *columns: str) -> pl.DataFrame:
    return load(spec(path)).frame.select(pl.col("@code").cast(pl.String), *(f"@{c}" for c in ("date", *columns)))


def write(frame: pl.DataFrame, path: Path) -> None:
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)


@pytest.mark.parametrize("date", ["Date", "", "__index_level_0__"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_of_closes_is_the_panel_of_its_rows(prices: pl.DataFrame, tmp_path: Path, date: str, form: str) -> None:
    prices.select("date", "code", "close").write_parquet(tmp_path / "long")
    wide = prices.pivot(on="code", index="date", values="close").sort("date").rename({"date": date, "B01": "LOW"})
    write(wide.select(*wide.columns[1:], date) if form == "parquet" else wide, tmp_path / f"w.{form}")
    expected = read(tmp_path / "long", "close").with_columns(pl.col("@code").replace("B01", "LOW"))
    assert read(tmp_path / f"w.{form}", "close").equals(expected.sort("@code", "@date"))


def two_levels(prices: pl.DataFrame, *, code_first: bool) -> pl.DataFrame:
    """Columns named (price, ticker), or the other way round, as pandas writes them."""
    parts = []
    for role, field in FIELDS.items():
        part = prices.pivot(on="code", index="date", values=role).sort("date")
        names = {c: str((c, field) if code_first else (field, c)) for c in part.columns[1:]}
        parts.append(part.rename(names) if not parts else part.drop("date").rename(names))
    return pl.concat(parts, how="horizontal")


@pytest.mark.parametrize("code_first", [False, True])
@pytest.mark.parametrize(
    "form", ["index named", "index unnamed", "index of merged cells", "parquet", "date is a column"]
)
def test_columns_of_two_levels_are_prices_of_stocks(
    prices: pl.DataFrame, tmp_path: Path, form: str, code_first: bool
) -> None:
    prices.drop("sector").write_parquet(tmp_path / "long")
    wide = two_levels(prices, code_first=code_first)
    if form.startswith("index"):
        pairs = [pl.Series([name]).str.extract_all(r"\w+").to_list()[0] for name in wide.columns[1:]]
        header = [["Price", *(p[0] for p in pairs)], ["Ticker", *(p[1] for p in pairs)]]
        if form == "index of merged cells":
            header[0] = [c if c != last else "" for last, c in pairwise(["", *header[0]])]
        if form != "index unnamed":
            header.append(["Date", *("" for _ in pairs)])
        body = wide.write_csv(include_header=False)
        (tmp_path / "w").write_text("".join(",".join(line) + "\n" for line in header) + body)
    else:
        wide.rename({"date": "('Date', '')"} if form == "date is a column" else {}).write_parquet(tmp_path / "w")
    assert read(tmp_path / "w", *FIELDS).equals(read(tmp_path / "long", *FIELDS))


def test_the_dry_run_says_how_a_wide_table_is_read_and_errors_name_the_stock(
    prices: pl.DataFrame, tmp_path: Path
) -> None:
    wide = prices.pivot(on="code", index="date", values="close").sort("date")
    wide.write_csv(tmp_path / "w.csv")
    words = "w.csv is read as a wide table, one row a day: ['close'] of 14 codes ['B00', 'B01', 'B02', … 11 more]"
    assert words in str(inspect(spec(tmp_path / "w.csv"))["profile"]["warnings"][0])  # type: ignore[index]
    number = pl.int_range(pl.len())
    spoiled = wide.with_columns(B04=pl.when(number == 9).then(pl.lit("n.v.")).otherwise(pl.col("B04").cast(pl.String)))
    spoiled.write_csv(tmp_path / "w.csv")
    with pytest.raises(DataError, match=r"1 bad cells: .*2020-01-14 B04: 'n\.v\.'.*is read as a wide table"):
        load(spec(tmp_path / "w.csv"))
    assert load(spec(tmp_path / "w.csv", on_bad_cell="drop")).dropped[0].num_rows == 1


@pytest.mark.parametrize(
    ("names", "mapped", "fields"),
    [
        (["Date", "LOW", "OPEN", "AAPL"], {}, {"close"}),
        (["Date", "Open", "High", "Low", "Close", "Volume"], {}, None),
        (["Date", "Open", "High", "Low", "Volume", "x"], {}, None),
        (["date", "code", "close"], {}, None),
        (["date", "A", "B"], {"code": "A"}, None),
        (["when", "A", "B"], {"date": "when"}, {"close"}),
        (["when", "A", "B"], {}, None),
        (["date", "x", "target_1d"], {}, None),
        (["date", "year", "index", "A"], {}, None),
        (["date", "Adj Close_A", "Adj Close_B", "Close_A", "Close_B"], {}, {"Adj Close", "Close"}),
        (["date", "A adj_close", "B adj_close", "A Volume"], {}, {"adj_close", "Volume"}),
        (["date", "adj_close_A", "adj_close_B"], {}, {"adj_close"}),
        (["date", "A_US", "B_US"], {}, {"close"}),
        (["Date", "('Dividends', 'A')", "('Close', 'A')"], {}, {"Dividends", "Close"}),
        (["Date", "('x', 'A')", "('y', 'A')"], {}, None),
    ],
)
def test_a_layout_is_found_by_names_alone(names: list[str], mapped: dict[str, str], fields: set[str] | None) -> None:
    found = find_layout(names, mapped)
    assert (None if found is None else {field for field, _ in found.columns.values()}) == fields


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["adj_close_aapl", "close_aapl", "volume_aapl"], ["adj_close aapl", "close aapl", "volume aapl"]),
        (["Adj Close AAPL", "Close AAPL"], ["Adj Close AAPL", "Close AAPL"]),
        (["BRK_B_close", "A_close", "A_prev_close"], ["close BRK_B", "close A", "prev_close A"]),
        (["Close_BRK.B", "Dividends_BRK.B"], ["Close BRK.B", "Dividends BRK.B"]),
        (["LOW_close", "OPEN_close"], ["close LOW", "close OPEN"]),
        (["close_7203", "volume_7203"], ["close 7203", "volume 7203"]),
        (["Last Price", "Volume"], None),
        (["AAPL", "MSFT", "Volume"], None),
        (["raw_close", "adj_close_2"], None),
        (["close_aapl", "vix"], None),
        (["AAPL", "Dividends"], None),
    ],
)
def test_joined_names_are_split_at_the_field(names: list[str], pairs: list[str] | None) -> None:
    found = find_layout(["date", *names], {})
    assert (None if found is None else [" ".join(pair) for pair in found.columns.values()]) == pairs


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("day_of,stock_id,last_px\n2024-01-02,A,1.5\n")
    with pytest.raises(DataError, match=r"p\.csv: no date column, no code column, no close column among .*: name them"):
        load(spec(tmp_path / "p.csv"))
    (tmp_path / "d.csv").write_text("date,stock_id,last_px\n2024-01-02,A,1.5\n2024-01-02,B,2.5\n")
    with pytest.raises(DataError, match=r"d\.csv: no code column, no close column among"):
        load(spec(tmp_path / "d.csv"))
    mapped = {"date": "day", "code": "id"}
    with pytest.raises(DataError, match=r"columns\.date names 'day', columns\.code names 'id', but.*; no close column"):
        load(spec(tmp_path / "p.csv", columns=mapped))
    (tmp_path / "p.csv").write_text("stock_id,x,target_1d\nA,1,0.1\n")
    with pytest.raises(DataError, match=r"no date column, no code .*target columns \['target_5d'\].*features \['y'\]"):
        load(spec(tmp_path / "p.csv", features=("x", "y")))
