"""Wrong input: each error names the column or the rows, and says what to do."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from atft.data.builder.run import inspect
from atft.data.panel.source import load
from atft.data.schema import TARGET_LIKE, DataError, find_roles
from atft.spec.data import DatasetSpec, SideFile

Write = Callable[[pl.DataFrame, Path], object]


def spec(path: Path, **settings: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "path": str(path), "horizons": (1, 5), **settings})


def spoiled(prices: pl.DataFrame, column: str, value: object) -> pl.DataFrame:
    """Row 18 of the file (1-based) gets `value`."""
    dtype = pl.String if isinstance(value, str) else prices[column].dtype
    return prices.with_columns(
        pl.when(pl.int_range(pl.len()) == 17).then(pl.lit(value)).otherwise(pl.col(column).cast(dtype)).alias(column)
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("close", -1.0, r"'close' is zero or negative in 1 rows, such as row 18 2020-01-02 B0\d: '-1.0'"),
        ("close", 0.0, "'close' is zero or negative"),
        ("low", -0.5, "'low' is zero or negative"),
        ("volume", -5.0, "'volume' is negative"),
        ("close", "abc", r"column 'close' is not a number in 1 rows, such as row 18 2020-01-02 B0\d: 'abc'"),
        ("close", float("inf"), "column 'close' is infinite in 1 rows, such as row 18 2020-01-02"),
        (
            "date",
            "31.12.2020",
            r"column 'date' is not a date in 1 rows, such as row 18 B0\d: '31.12.2020': write dates as 2024-01-31",
        ),
        ("date", "2020-13-01", "is not a date in 1 rows"),
        ("code", "", r"column 'code' is empty in 1 rows, such as row 18 2020-01-02"),
    ],
)
def test_bad_cells_are_named(prices: pl.DataFrame, tmp_path: Path, column: str, value: object, message: str) -> None:
    spoiled(prices, column, value).write_csv(tmp_path / "p.csv")
    with pytest.raises(DataError, match=message):
        load(spec(tmp_path / "p.csv"))


def test_duplicates_are_named(prices: pl.DataFrame, tmp_path: Path) -> None:
    pl.concat([prices, prices.head(2)]).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"4 rows repeat a \(date, code\), such as 2020-01-01 B00"):
        load(spec(tmp_path / "p.parquet"))


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("date", "no date column among .*map it with columns.date"),
        ("code", "no code column among .*one column per stock"),
        ("close", "no close column among"),
    ],
)
def test_missing_columns_are_named(prices: pl.DataFrame, tmp_path: Path, dropped: str, message: str) -> None:
    prices.drop(dropped).write_csv(tmp_path / "p.csv")
    with pytest.raises(DataError, match=message):
        load(spec(tmp_path / "p.csv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"date,code,close\n", "no rows"),
        (bytes(range(128, 256)) * 20, "neither Parquet nor Arrow nor UTF-8 text"),
        (b"a,b\0", "neither Parquet"),
        (b"PAR1" + b"x" * 100, "cannot be read as Parquet"),
        (b"ARROW1\0\0" + b"x" * 100, "cannot be read as Arrow IPC"),
        (b"date,code,close\n2020-01-01,A,1,9,9\n", "cannot be read as CSV"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(spec(tmp_path / "p"))
    with pytest.raises(DataError, match="cannot be read"):
        load(spec(tmp_path / "missing.csv"))


def test_cut_files_are_refused(prices: pl.DataFrame, tmp_path: Path) -> None:
    for name, write in (("p.parquet", prices.write_parquet), ("p.arrow", prices.write_ipc)):
        write(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-500])
        with pytest.raises(DataError, match="cut short"):
            load(spec(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.parquet", lambda f, p: f.write_parquet(p)),
        ("p.csv", lambda f, p: f.write_csv(p)),
        ("p.arrow", lambda f, p: f.write_ipc(p)),
        ("p.arrows", lambda f, p: f.write_ipc_stream(p)),
        ("p2.csv", lambda f, p: f.write_csv(p, separator=";")),
        ("p.tsv", lambda f, p: f.write_csv(p, separator="\t")),
        ("bom.csv", lambda f, p: p.write_bytes(b"\xef\xbb\xbf" + f.write_csv().replace("\n", "\r\n").encode())),
        ("p.csv.gz", lambda f, p: p.write_bytes(gzip.compress(f.write_csv().encode()))),
        ("p.tsv.gz", lambda f, p: p.write_bytes(gzip.compress(f.write_csv(separator="\t").encode()))),
        ("p.csv.zst", lambda f, p: p.write_bytes(pa.Codec("zstd").compress(f.write_csv().encode()).to_pybytes())),
        ("packed.arrow", lambda f, p: f.write_ipc(p, compression="zstd")),
        ("shuffled.parquet", lambda f, p: f.sample(fraction=1, shuffle=True, seed=1).write_parquet(p)),
        (
            "compact.parquet",
            lambda f, p: f.with_columns(pl.col("date").dt.strftime("%Y%m%d").cast(pl.Int64)).write_parquet(p),
        ),
        ("iso.csv", lambda f, p: f.with_columns(pl.col("date").cast(pl.String) + "T15:00:00Z").write_csv(p)),
        ("bytes.parquet", lambda f, p: f.with_columns(pl.col("code").cast(pl.Binary)).write_parquet(p)),
        (
            "stamp.parquet",
            lambda f, p: f.with_columns(
                pl.col("date").cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
            ).write_parquet(p),
        ),
    ],
)
def test_one_panel_in_many_forms(prices: pl.DataFrame, tmp_path: Path, name: str, write: Write) -> None:
    write(prices, tmp_path / name)
    prices.write_parquet(tmp_path / "plain")
    source = load(spec(tmp_path / name))
    assert source.frame.equals(load(spec(tmp_path / "plain")).frame)
    assert not source.extra
    assert not source.ignored


def test_a_partitioned_folder_is_one_panel(prices: pl.DataFrame, tmp_path: Path) -> None:
    month = pl.col("date").dt.month()
    prices.write_parquet(tmp_path / "plain")
    for m, part in prices.with_columns(m=month).partition_by("m", as_dict=True).items():
        for sector, rows in part.drop("m").partition_by("sector", as_dict=True, include_key=False).items():
            name = "__HIVE_DEFAULT_PARTITION__" if sector[0] is None else sector[0]
            folder = tmp_path / "parts" / f"month={m[0]}" / f"sector={name}"
            folder.mkdir(parents=True)
            rows.write_parquet(folder / "part-0.parquet")
    (tmp_path / "parts" / "_SUCCESS").touch()
    source, plain = load(spec(tmp_path / "parts")), load(spec(tmp_path / "plain"))
    assert source.frame.equals(plain.frame)
    assert list(source.extra) == ["month"]
    assert source.extra["month"].market_wide
    before = source.sha256
    (tmp_path / "parts" / "month=1" / "sector=S0" / "part-0.parquet").rename(
        tmp_path / "parts" / "month=1" / "sector=S0" / "part-1.parquet"
    )
    assert load(spec(tmp_path / "parts")).sha256 != before
    (tmp_path / "secret.parquet").write_bytes((tmp_path / "plain").read_bytes())
    (tmp_path / "parts" / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(DataError, match="links that lead out of it"):
        load(spec(tmp_path / "parts"))


def test_rows_that_step_back_in_time_are_counted(prices: pl.DataFrame, tmp_path: Path) -> None:
    """Files sorted by date or by code have none; a block moved behind later days counts once per code."""
    for name, frame, count in (
        ("days", prices, 0),
        ("codes", prices.sort("code", "date"), 0),
        ("late", pl.concat([prices.slice(13), prices.head(13)]), 13),
    ):
        frame.write_parquet(tmp_path / name)
        assert load(spec(tmp_path / name)).num_unordered == count


def test_row_numbers_of_other_programs_are_no_features(prices: pl.DataFrame, tmp_path: Path) -> None:
    prices.with_row_index("").write_csv(tmp_path / "p.csv")
    assert not load(spec(tmp_path / "p.csv")).extra


def test_codes_stay_text(tmp_path: Path) -> None:
    rows = "\n".join(f"2020-01-{d:02d},{c},{10 + d}" for d in range(1, 25) for c in ("000001", "NA", "7203"))
    (tmp_path / "p.csv").write_text("date,code,close\n" + rows)
    assert load(spec(tmp_path / "p.csv")).frame["@code"].unique().sort().to_list() == ["000001", "7203", "NA"]


def test_missing_markers_in_prices_are_halts(prices: pl.DataFrame, tmp_path: Path) -> None:
    spoiled(prices, "close", "NaN").write_csv(tmp_path / "p.csv")
    assert load(spec(tmp_path / "p.csv")).frame["@close"].null_count() == 1
    assert inspect(spec(tmp_path / "p.csv"))["num_filled_rows"] == 3


def test_pain_16_two_columns_for_one_role_are_refused(prices: pl.DataFrame) -> None:
    names = [*prices.columns, "Code"]
    with pytest.raises(DataError, match=r"\['code', 'Code'\] could each be the code"):
        find_roles(names, spec(Path("p")))
    assert find_roles(names, spec(Path("p"), columns={"code": "Code"})).columns["code"] == "Code"
    with pytest.raises(DataError, match=r"columns\.close names 'Shut'"):
        find_roles(names, spec(Path("p"), columns={"close": "Shut"}))


def test_ready_features_need_their_targets() -> None:
    names = ["date", "code", "a", "target_1d", "target_20d"]
    roles = find_roles(names, spec(Path("p"), horizons=(1,)))
    assert (roles.kind, roles.targets, roles.unassigned) == ("features", {1: "target_1d"}, ("a",))
    with pytest.raises(DataError, match=r"\['target_5d'\]"):
        find_roles(names, spec(Path("p")))
    with pytest.raises(DataError, match=r"missing features \['b'\]"):
        find_roles(names, spec(Path("p"), horizons=(1,), features=("a", "b")))
    mapped = find_roles(
        ["date", "code", "a", "y1", "y5"], spec(Path("p"), columns={"targets": ("y1", "y5"), "features": ("a",)})
    )
    assert (mapped.targets, mapped.requested_features) == ({1: "y1", 5: "y5"}, ("a",))
    with pytest.raises(DataError, match=r"columns\.targets lists 1 columns for 2 horizons"):
        find_roles(names, spec(Path("p"), columns={"targets": ("target_1d",)}))


def test_too_few_days_or_codes(prices: pl.DataFrame, tmp_path: Path) -> None:
    prices.filter(pl.col("date") < pl.date(2020, 1, 20)).write_parquet(tmp_path / "short")
    with pytest.raises(DataError, match=r"13 trading days.*need at least 20"):
        inspect(spec(tmp_path / "short"))
    prices.filter(pl.col("code") == "B00").write_parquet(tmp_path / "one")
    with pytest.raises(DataError, match="1 codes"):
        inspect(spec(tmp_path / "one"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("year,rank\n2020,1\n", "needs code and either year or date"),
        ("year,code\nabc,B00\n", r"'year' is not a number in 1 rows, such as row 1 B00: 'abc'"),
        ("date,code\n1.2.20,B00\n", "not a date"),
    ],
)
def test_bad_universe_files(prices: pl.DataFrame, tmp_path: Path, content: str, message: str) -> None:
    prices.write_parquet(tmp_path / "p")
    (tmp_path / "u.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load(spec(tmp_path / "p", universe=SideFile(file=str(tmp_path / "u.csv"))))


def test_market_files_long_and_wide(prices: pl.DataFrame, tmp_path: Path) -> None:
    prices.write_parquet(tmp_path / "p")
    (tmp_path / "long.csv").write_text("date,name,close\n2020-01-02,VIX,14\n2020-01-01,VIX,13\n2020-01-01,GOLD,1500\n")
    series = load(spec(tmp_path / "p", market=SideFile(file=str(tmp_path / "long.csv")))).market
    assert {k: v[1].tolist() for k, v in series.items()} == {"GOLD": [1500.0], "VIX": [13.0, 14.0]}
    (tmp_path / "wide.csv").write_text("date,rate,note\n2020-01-01,1.5,x\n2020-01-02,,y\n")
    assert {
        k: v[1].tolist()
        for k, v in load(spec(tmp_path / "p", market=SideFile(file=str(tmp_path / "wide.csv")))).market.items()
    } == {"rate": [1.5]}
    (tmp_path / "twice.csv").write_text("date,rate\n2020-01-01,1.5\n2020-01-01,1.6\n")
    with pytest.raises(DataError, match="repeats a date for 'rate'"):
        load(spec(tmp_path / "p", market=SideFile(file=str(tmp_path / "twice.csv"))))


@pytest.mark.parametrize(
    "name",
    [
        "target",
        "Target_5",
        "fwd_ret",
        "ret_fwd_5d",
        "forward_return",
        "label",
        "future_close",
        "next_return",
        "next_5d_ret",
        "lead_1d_return",
    ],
)
def test_names_of_targets(name: str) -> None:
    assert TARGET_LIKE.search(name)


@pytest.mark.parametrize(
    "name",
    [
        "return_5",
        "momentum",
        "leading_indicator",
        "forwarding_ratio",
        "labelled",
        "next_earnings_days",
        "targeted",
        "close_ratio",
        "lead_time",
    ],
)
def test_names_of_honest_features(name: str) -> None:
    assert not TARGET_LIKE.search(name)
