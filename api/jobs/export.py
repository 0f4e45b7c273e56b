"""Metric series as one long table: name, step, value; an undefined value is null."""

import io
from typing import Literal

import pyarrow as pa
from fastapi import Response
from pyarrow import csv, parquet

from jobs.record.history import Series

_MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


def table(series: Series, kind: Literal["csv", "parquet"], name: str) -> Response:
    """`series` as a CSV or Parquet download."""
    names = [metric for metric, points in series.items() for _ in points["step"]]
    steps = [step for points in series.values() for step in points["step"]]
    values = [value for points in series.values() for value in points["value"]]
    rows = pa.table(
        {
            "name": pa.array(names, pa.string()),
            "step": pa.array(steps, pa.int64()),
            "value": pa.array(values, pa.float64()),
        }
    )
    sink = io.BytesIO()
    if kind == "csv":
        csv.write_csv(rows, sink, csv.WriteOptions(quoting_style="needed"))
    else:
        parquet.write_table(rows, sink)
    return Response(
        sink.getvalue(),
        media_type=_MEDIA_TYPES[kind],
        headers={"Content-Disposition": f'attachment; filename="{name}.{kind}"'},
    )
