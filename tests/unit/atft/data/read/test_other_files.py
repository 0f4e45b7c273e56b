"""Tables of SQLite and DuckDB files and sheets of workbooks are the panel that a Parquet file of them would be."""

import datetime as dt
import itertools
import sqlite3
import struct
import zipfile
from contextlib import closing
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl
import pytest

from atft.data.panel.source import load
from atft.data.read.columns import ColumnReader
from atft.data.read.opening import open_file
from atft.data.read.tables import Table
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec, TableFile

XML = '<?xml version="1.0" encoding="UTF-8"?>'
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def spec(path: Path, **settings: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "path": str(path), "horizons": (1, 5), **settings})


def read(path: Path, **settings: object) -> pl.DataFrame:
    found = load(spec(path, **settings))
    return found.frame.select("@date", pl.col("@code").cast(pl.String), "@close", "@volume")


def cell(value: object) -> str:
    if isinstance(value, dt.date):
        return f'<c s="1"><v>{(value - dt.date(1899, 12, 30)).days}</v></c>'
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return "<c/>" if value is None else f"<c><v>{value}</v></c>"


def write_workbook(path: Path, sheets: dict[str, list[tuple[object, ...]]]) -> None:
    """A workbook of these rows of cells, as small as the format allows."""
    numbered = list(enumerate(sheets, 1))
    with zipfile.ZipFile(path, "w") as book:
        kinds = 'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml'
        parts = "".join(f'<Override PartName="/xl/worksheets/s{k}.xml" {kinds}.worksheet+xml"/>' for k, _ in numbered)
        parts += f'<Override PartName="/xl/workbook.xml" {kinds}.sheet.main+xml"/>'
        types = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        book.writestr("[Content_Types].xml", f"{XML}{types}{parts}</Types>")
        root = f'<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        book.writestr("_rels/.rels", f'{XML}<Relationships xmlns="{PACKAGE}">{root}</Relationships>')
        names = "".join(f'<sheet name="{name}" sheetId="{k}" r:id="r{k}"/>' for k, name in numbered)
        book.writestr(
            "xl/workbook.xml", f'{XML}<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>'
        )
        links = "".join(
            f'<Relationship Id="r{k}" Type="{OFFICE}/worksheet" Target="worksheets/s{k}.xml"/>' for k, _ in numbered
        )
        links += f'<Relationship Id="r0" Type="{OFFICE}/styles" Target="styles.xml"/>'
        book.writestr("xl/_rels/workbook.xml.rels", f'{XML}<Relationships xmlns="{PACKAGE}">{links}</Relationships>')
        styles = '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs>'
        book.writestr("xl/styles.xml", f"{XML}<styleSheet {MAIN}>{styles}</styleSheet>")
        for k, rows in enumerate(sheets.values(), 1):
            body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            book.writestr(
                f"xl/worksheets/s{k}.xml", f"{XML}<worksheet {MAIN}><sheetData>{body}</sheetData></worksheet>"
            )


@pytest.fixture
def expected(prices: pl.DataFrame, tmp_path: Path) -> pl.DataFrame:
    prices.write_parquet(tmp_path / "p.parquet")
    return read(tmp_path / "p.parquet")


def test_a_table_of_sqlite(prices: pl.DataFrame, expected: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    rows = prices.with_columns(pl.col("date").cast(pl.String), mixed=pl.lit(1.5), vacant=None).rows()
    rows[0] = (*rows[0][:-2], "x", None)
    with sqlite3.connect(path) as database:
        columns = ", ".join([*prices.columns, "mixed", "vacant"])
        database.execute(f'CREATE TABLE "daily ""prices" ({columns})')
        database.executemany(f'INSERT INTO "daily ""prices" VALUES ({", ".join("?" * len(rows[0]))})', rows)
    database.close()
    before = path.read_bytes()
    assert read(path).equals(expected)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    assert read(path, table='daily "prices').equals(expected)
    with pytest.raises(DataError, match=r"p\.db has several tables: .*'other'\].*--table"):
        read(path)
    with pytest.raises(DataError, match=r"p\.db has no table 'prices'"):
        read(path, table="prices")
    with pytest.raises(DataError, match=r"columns \['x'\] but no rows"):
        read(path, table="other")
    (tmp_path / "p.db-wal").write_bytes(b"x")
    with pytest.raises(DataError, match=r"changes that are only in p\.db-wal"):
        read(path)
    (tmp_path / "p.db-wal").unlink()
    path.write_bytes(before[:5000])
    with pytest.raises(DataError, match=r"p\.db cannot be read as SQLite"):
        read(path)


EUROPEAN = TableFile(decimal=",", thousands=".")


def numbers_of(path: Path, written: TableFile) -> list[object]:
    """Column x of a file, read as numbers."""
    table = open_file(path, written)
    assert isinstance(table, Table)
    return ColumnReader(table, ["x"]).numbers("x").to_list()


def write_sqlite(path: Path, columns: str, rows: list[tuple[object, ...]], *statements: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE t ({columns})")
        database.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.mark.parametrize("without_rowid", ["", " WITHOUT ROWID"])
def test_columns_of_sqlite_that_have_an_index_stay_in_row_order(tmp_path: Path, without_rowid: str) -> None:
    rows: list[tuple[object, ...]] = [(k, -k % 5) for k in range(5)]
    with sqlite3.connect(tmp_path / "p.db") as database:
        database.execute(f"CREATE TABLE t (k INTEGER PRIMARY KEY, x){without_rowid}")
        database.execute("CREATE INDEX i ON t (x)")
        database.executemany("INSERT INTO t VALUES (?, ?)", rows)
    database.close()
    table = open_file(tmp_path / "p.db")
    assert isinstance(table, Table)
    assert list(zip(table.frame(["k"])["k"], table.frame(["x"])["x"], strict=True)) == rows


def test_real_numbers_beside_text_keep_their_decimals(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    cells = [12.345, "1.234,5", 7203.0, 1e-05, -2, "n/a", 1234567.125]
    write_workbook(tmp_path / "p.xlsx", {"s": [("x",), *((cell,) for cell in cells)]})
    write_sqlite(tmp_path / "p.db", "x", [(cell,) for cell in cells])
    expected = [12.345, 1234.5, 7203, 1e-05, -2, None, 1234567.125]
    assert numbers_of(tmp_path / "p.xlsx", EUROPEAN) == expected
    assert numbers_of(tmp_path / "p.db", EUROPEAN) == expected


def test_numbers_of_a_wide_table_are_read_once(tmp_path: Path) -> None:
    days = pl.Series([dt.date(2024, 1, 2), dt.date(2024, 1, 3), dt.date(2024, 1, 4)])
    wide = pl.DataFrame(
        {"date": days, "A": [12.345, 1.5, None], "B": ["12,345", "1.234,5", "2,5"], "C": ["x", "1", "2"]}
    )
    wide.write_parquet(tmp_path / "w")
    found = load(spec(tmp_path / "w", decimal=",", thousands=".", on_bad_cell="drop")).frame
    assert found.select(pl.col("@code").cast(pl.String), "@close").sort("@code").rows() == [
        ("A", 12.345), ("A", 1.5), ("B", 12.345), ("B", 1234.5), ("B", 2.5), ("C", 1.0), ("C", 2.0)
    ]  # fmt: skip


def test_a_table_of_duckdb(
    prices: pl.DataFrame, expected: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "p.duckdb"
    prices.write_parquet(tmp_path / "copy")
    with duckdb.connect(str(path)) as database:
        database.execute(f"CREATE TABLE daily AS SELECT * FROM read_parquet('{tmp_path / 'copy'}')")
        database.execute("CREATE TABLE instants AS SELECT TIMESTAMPTZ '2024-01-02 00:00:00+00' AS x")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    table = open_file(path, TableFile(table="instants"))
    assert isinstance(table, Table)
    assert table.schema.field("x").type.tz == "UTC"
    assert str(table.frame(["x"])["x"][0]) == "2024-01-02 00:00:00"
    with duckdb.connect(str(path)) as database:
        database.execute("DROP TABLE instants")
    assert read(path).equals(expected)
    with pytest.raises(DataError, match=r"p\.duckdb has no table 'other': it has \['daily'\]"):
        read(path, table="other")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"p\.duckdb cannot be read as DuckDB"):
        read(path)


def test_a_sheet_of_a_workbook(prices: pl.DataFrame, expected: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    path = tmp_path / "p.xlsx"
    rows = [tuple(prices.columns), *prices.rows()]
    write_workbook(path, {"panel": rows})
    assert read(path).equals(expected)
    wide = prices.pivot(on="code", index="date", values="close").sort("date")
    header = [("Price", "Close", *[None] * (wide.width - 2)), ("Ticker", *wide.columns[1:]), ("Date",)]
    write_workbook(path, {"panel": rows, "wide": [*header, *wide.rows()]})
    found = load(spec(path, sheet="wide"))
    assert found.frame["@close"].to_list() == expected["@close"].to_list()
    with pytest.raises(DataError, match=r"p\.xlsx has several sheets: it has \['panel', 'wide'\].*--sheet"):
        read(path)
    with pytest.raises(DataError, match=r"p\.xlsx is not a SQLite or DuckDB file: leave table out"):
        read(path, sheet="panel", table="panel")
    path.write_bytes(path.read_bytes().replace(b"<sheetData>", b"<sheetDatA>"))
    with pytest.raises(DataError, match=r"p\.xlsx cannot be read as a workbook|empty sheet"):
        read(path, sheet="panel")


def test_codes_that_a_workbook_holds_as_numbers(prices: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    numbered = prices.with_columns(code=pl.col("code").str.slice(1).cast(pl.Int64) + 7200).select(
        "date", "code", "close"
    )
    write_workbook(tmp_path / "p.xlsx", {"panel": [("date", "code", "close"), *numbered.rows()]})
    codes = load(spec(tmp_path / "p.xlsx")).frame["@code"].cast(pl.String)
    assert set(codes) == set(numbered["code"].cast(pl.String))


def test_settings_of_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("date,code,close\n2024-01-02,A,1\n")
    with pytest.raises(DataError, match=r"p\.csv is not a workbook: leave sheet out"):
        load(spec(tmp_path / "p.csv", sheet="s"))


def test_a_stray_cell_far_away_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
        cells = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c s="1" r="XFD1048576"><v>1</v></c></row>'
        book.writestr("xl/worksheets/s1.xml", f"<worksheet><sheetData>{cells}</sheetData></worksheet>")
    with pytest.raises(
        DataError, match=r"p\.xlsx has a sheet with cells in column 16,384 and in row 1,048,576: delete"
    ):
        open_file(tmp_path / "p.xlsx")


def test_pages_that_refer_to_each_other_do_not_keep_sqlite_reading(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE t (date, code, close)")
        database.executemany("INSERT INTO t VALUES (?, ?, 1.5)", [("2024-01-02", f"C{i}") for i in range(5000)])
        database.commit()
        (root,) = database.execute("SELECT rootpage FROM sqlite_master").fetchone()
    content = bytearray(path.read_bytes())
    first = content[(root - 1) * 512 : root * 512]
    (num_children,) = struct.unpack(">H", first[3:5])
    children = struct.unpack(f">{num_children}H", first[12 : 12 + 2 * num_children])
    for page, below in itertools.pairwise([root, *range(root + 1, root + 18)]):  # each child of a page is the next page
        first[8:12] = struct.pack(">I", below)
        for child in children:
            first[child : child + 4] = struct.pack(">I", below)
        content[(page - 1) * 512 : page * 512] = first
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.sqlite cannot be read as SQLite: interrupted"):
        open_file(path)
