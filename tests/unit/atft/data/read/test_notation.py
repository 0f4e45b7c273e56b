"""Dates and numbers in text, in the notations that settings name; advice names the notation of cells that fail."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from atft.data.panel.sidefiles import read_market
from atft.data.panel.source import load
from atft.data.read.cells import numbers_from_text
from atft.data.read.columns import ColumnReader
from atft.data.read.notation import date_advice, number_advice
from atft.data.read.tables import table_from_frame
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec, SideFile, TableFile

GERMAN = {"date_format": "%d.%m.%Y", "decimal": ",", "thousands": "."}


def german(prices: pl.DataFrame) -> pl.DataFrame:
    """The panel as a German spreadsheet writes it, and a feature."""
    close = (prices["close"] * 1000).round(2)
    text = pl.Series([f"{c:_.2f}".replace(".", ",").replace("_", ".") for c in close])
    return pl.DataFrame(
        {"date": prices["date"].dt.strftime("%d.%m.%Y"), "code": prices["code"], "close": text, "x": text}
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_german_panel_is_read_as_its_settings_say(prices: pl.DataFrame, tmp_path: Path, form: str) -> None:
    written = german(prices)
    written.write_csv(tmp_path / "p", separator=";") if form == "csv" else written.write_parquet(tmp_path / "p")
    settings = {"name": "x", "path": str(tmp_path / "p"), "horizons": (1, 5)}
    with pytest.raises(DataError, match=r"(?s)date_format '%d\.%m\.%Y'.*decimal ',' and thousands '\.'"):
        load(DatasetSpec.model_validate(settings))
    source = load(DatasetSpec.model_validate(settings | GERMAN))
    expected = prices.sort("code", "date")
    assert source.frame["@date"].to_list() == expected["date"].to_list()
    assert source.frame["@close"].to_list() == (expected["close"] * 1000).round(2).to_list()
    assert form == "parquet" or source.extra["x"].high == max(source.frame["@close"])
    market = written.unique("date").select("date", vix="close")
    market.write_csv(tmp_path / "m", separator=";")
    vix = read_market(SideFile.model_validate({"file": str(tmp_path / "m"), **GERMAN}), "refuse").value["vix"]
    assert len(vix[0]) == prices["date"].n_unique()


@pytest.mark.parametrize(
    ("decimal", "thousands", "cells", "numbers"),
    [
        (",", None, ["1,5", "-,5", "1.5", "1e3", "n/a", "x"], [1.5, -0.5, None, 1000.0, None, None]),
        (",", ".", ["1.234,5", "1.234", "12,5", "1.5", "1.2345"], [1234.5, 1234.0, 12.5, None, None]),
        (".", ",", ["12,34,567.5", "1,234", "1,23", ",5"], [1234567.5, 1234.0, None, None]),
        (".", " ", ["1 234", "1\u202f234.5", "1\u00a0234", "1 23"], [1234.0, 1234.5, 1234.0, None]),
        (".", "'", ["1'234.5", "1\u2019234"], [1234.5, 1234.0]),
    ],
)
def test_a_number_fits_its_notation_or_is_none(
    decimal: str, thousands: str | None, cells: list[str], numbers: list[float | None]
) -> None:
    values, failed = numbers_from_text(pl.Series(cells), TableFile(decimal=decimal, thousands=thousands))  # type: ignore[arg-type]
    assert values.to_list() == numbers
    assert failed.to_list() == [n is None and c != "n/a" for n, c in zip(numbers, cells, strict=True)]


def test_a_time_of_day_is_judged_in_every_format() -> None:
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 3, 1), "1d", eager=True)
    sundays = days.filter(days.dt.weekday().is_in([7, 1, 2, 3, 4])).dt.strftime("%d/%m/%Y 15:00")
    table = table_from_frame(pl.DataFrame({"date": sundays}), "p")
    reader = ColumnReader(table, ["date"])
    reader.written = TableFile(date_format="%d/%m/%Y %H:%M")
    with pytest.raises(DataError, match=r"in UTC the midnights of Asia/Tokyo.*a day early"):
        reader.dates("date")


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (["31.12.2020"], "date_format '%d.%m.%Y' (--date-format)"),
        (["01/02/2020", "12/31/2020"], "date_format '%m/%d/%Y' (--date-format)"),
        (["01-02-20"], "date_format '%d-%m-%y' or '%m-%d-%y' (--date-format)"),
        (["soon"], "write dates as 2024-01-31, or name their date_format, such as '%d %b %Y'"),
    ],
)
def test_advice_names_the_format_of_dates(cells: list[str], advice: str) -> None:
    assert date_advice(pl.Series(cells), TableFile()).endswith(advice)
    assert "date_format is '%j %Y'" in date_advice(pl.Series(cells), TableFile(date_format="%j %Y"))


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (["1,5", "12,25"], "name their marks: decimal ',' (--decimal, --thousands)"),
        (["1,234"], "decimal '.' and thousands ',' or decimal ',' (--decimal, --thousands)"),
        (["1.234,5", "2,5"], "marks: decimal ',' and thousands '.' (--decimal, --thousands)"),
        (["1,5", "x"], "write plain numbers such as 1234.5"),
    ],
)
def test_advice_names_the_marks_of_numbers(cells: list[str], advice: str) -> None:
    assert number_advice(pl.Series(cells)).endswith(advice)


@pytest.mark.parametrize(
    "settings",
    [
        {"date_format": "%d.%m."},
        {"date_format": "%d.%m.%Y %Z"},
        {"date_format": "%"},
        {"decimal": ",", "thousands": ","},
    ],
)
def test_settings_that_cannot_read_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        DatasetSpec.model_validate({"name": "x", "path": "p", **settings})


@pytest.mark.parametrize("date_format", ["%d.%d.%m.%Y", "%Y-%m-%d %Y", "%d.%m"])
def test_a_date_format_that_does_not_tell_the_day_is_refused(date_format: str) -> None:
    with pytest.raises(ValidationError, match="give year, month and day"):
        TableFile(date_format=date_format)
