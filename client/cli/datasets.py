"""The commands `atft datasets add`, `ls`, `show` and `rm`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import JsonValue
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from client.cli import display
from client.cli.terminal import AsJson, connect, err, exit_with_state, fail, out, print_json, print_warnings, read_spec

app = typer.Typer(help="Register, list, show and delete datasets.", no_args_is_help=True)
DatasetRef = Annotated[str, typer.Argument(metavar="NAME", help="A dataset, or one version of it: NAME@VERSION.")]
JsonObject = Mapping[str, JsonValue]
File = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]


@app.command("add")
def _add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new dataset.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="Parquet, Arrow, CSV, Excel, SQLite or DuckDB to upload.", exists=True, dir_okay=False),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Instead of FILE: a file or folder under the server's data root.")
    ] = None,
    planted: Annotated[
        Path | None,
        typer.Option(help="Instead of FILE: the spec of a planted panel, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
    universe: Annotated[
        Path | None, typer.Option(help="Members of the universe by day or year; uploaded.", exists=True)
    ] = None,
    market: Annotated[Path | None, typer.Option(help="Market-wide series; uploaded.", exists=True)] = None,
    spec: Annotated[
        Path | None, typer.Option(help="More fields of the dataset spec, YAML or JSON.", exists=True, dir_okay=False)
    ] = None,
    on_bad_cell: Annotated[
        Literal["refuse", "drop"] | None,
        typer.Option(help="A cell that cannot be read refuses the file (the default), or drops its row."),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook with several sheets.")] = None,
    table: Annotated[str | None, typer.Option(help="Of a SQLite or DuckDB file with several tables.")] = None,
    date_format: Annotated[
        str | None, typer.Option(help="Of dates in text, such as %d.%m.%Y; ISO dates need none.")
    ] = None,
    decimal: Annotated[Literal[".", ","] | None, typer.Option(help="Decimal mark of numbers in text.")] = None,
    thousands: Annotated[
        Literal[",", ".", " ", "'", "_"] | None, typer.Option(help="Mark between groups of digits in text.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built; nothing is stored.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a panel and wait until its cache is built."""
    if sum(source is not None for source in (file, path, planted)) != 1:
        fail(2, "give one source: a FILE to upload, --path, or --planted")
    if file is None and (universe or market):
        fail(2, "--universe and --market go with a FILE; beside --path name server paths in --spec")
    body: dict[str, JsonValue] = {**(read_spec(spec) if spec else {}), "name": name}
    if path is not None:
        body["path"] = path
    if planted is not None:
        body["planted"] = read_spec(planted)
    settings = {
        "sheet": sheet, "table": table, "on_bad_cell": on_bad_cell, "date_format": date_format, "decimal": decimal,
        "thousands": thousands,
    }  # fmt: skip
    body |= {key: value for key, value in settings.items() if value is not None}
    with connect(context) as service, _upload_progress_bar() as report:
        if dry_run:
            plan = service.plan_dataset(body, file=file, universe=universe, market=market, on_progress=report)
            print_json(plan) if as_json else _print_plan(plan)
            return
        job = service.add_dataset(body, file=file, universe=universe, market=market, on_progress=report)
        print_warnings(job)
        job = display.watch_job(service, job.id, err, name)
        if job.state == "succeeded":
            found = service.dataset(name)
            print_json(found) if as_json else _print_dataset(found)
    exit_with_state(job)


@app.command("ls")
def _ls(context: typer.Context, as_json: AsJson = False) -> None:
    """List all datasets in their newest version."""
    with connect(context) as service:
        found = service.datasets()
    if as_json:
        print_json(found)
        return
    table = Table("dataset", "rows", "codes", "days", "features", "horizons", "size", "made", box=None, pad_edge=False)
    for item in found:
        table.add_row(
            f"{item['name']}@{item['version']}", _count(item["num_rows"]), _count(item["num_codes"]), _period(item),
            _count(item["num_features"]), _joined(item["horizons"]), _size(item["size_bytes"]),
            str(item["created_at"])[:16].replace("T", " ") + "Z",
        )  # fmt: skip
    out.print(table, highlight=False)


@app.command("show")
def _show(context: typer.Context, name: DatasetRef, as_json: AsJson = False) -> None:
    """Show a dataset: size, warnings, suspected leaks, and its versions with their sources and jobs."""
    with connect(context) as service:
        found = service.dataset(name)
    print_json(found) if as_json else _print_dataset(found)


@app.command("rm")
def _rm(
    context: typer.Context,
    name: DatasetRef,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a dataset or one version; refused while unfinished jobs use it. Finished jobs keep their results."""
    with connect(context) as service:
        found = service.dataset(name)
        versions = _objects(found["versions"])
        what = name if "@" in name else f"{name} with {len(versions)} version{'s' * (len(versions) > 1)}"
        if not yes and not typer.confirm(f"delete {what}?", err=True):
            fail(1, "nothing was deleted")
        service.delete_dataset(name)
    err.print(f"deleted {name}", markup=False, highlight=False)


@contextmanager
def _upload_progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar for an upload; not shown when stderr is not a terminal. Yields the callback that updates it."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn()
    bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    task = bar.add_task("sending", total=None, visible=False)

    def report(count: int, total: int) -> None:
        if not bar.finished and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=count, total=total, visible=True)
        if count >= total:
            bar.stop()

    try:
        yield report
    finally:
        bar.stop()


def _print_dataset(found: JsonObject) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    columns, market = found["columns"], found["market_columns"]
    table.add_row("dataset", f"{found['name']}@{found['version']}")
    for row in (
        ("rows", _count(found["num_rows"])), ("codes", _count(found["num_codes"])), ("days", _period(found)),
        ("features", f"{_length(columns)} across stocks, {_length(market)} market-wide"),
        ("horizons", _joined(found["horizons"])), ("size", _size(found["size_bytes"])),
        ("fingerprint", str(found["fingerprint"])),
    ):  # fmt: skip
        table.add_row(*row)
    out.print(table, highlight=False, markup=False)
    profile, leaks = _object(found["profile"]), _object(found["leak_report"])
    _print_warnings(profile.get("warnings"))
    suspected = [
        f"{one['feature']} ({one['rank_ic']} with {one.get('against', 'a target')})"
        for one in _objects(leaks.get("suspected"))
    ]
    out.print(f"suspected leaks: {', '.join(suspected) or 'none'}", markup=False, highlight=False)
    versions = Table("version", "made", "from", "by", "jobs", "unfinished", box=None, pad_edge=False)
    for one in _objects(found["versions"]):
        origin = _object(one["origin"])
        names = ", ".join(escape(str(file["name"])) for file in _objects(origin["files"]))
        versions.add_row(
            str(one["version"]), str(one["created_at"]), f"{origin['kind']} {names}".strip(), str(origin["by"]),
            str(one["num_jobs"]), str(one["num_unfinished_jobs"]),
        )  # fmt: skip
    out.print(versions, highlight=False, markup=False)


def _print_plan(plan: JsonObject) -> None:
    found = _object(plan["inspection"])
    table = Table(show_header=False, box=None, pad_edge=False)
    roles = ", ".join(
        role if role == column else f"{role} from {escape(str(column))}"
        for role, column in _object(found["columns"]).items()
    )
    features = f"{_length(found['feature_names'])} across stocks, {_length(found['market_names'])} market-wide"
    for row in (
        ("read as", f"{found['kind']}: {roles}" if roles else str(found["kind"])), ("rows", _count(found["num_rows"])),
        ("codes", _count(found["num_codes"])), ("days", _count(found["num_days"])), ("features", features),
        ("size", f"about {_size(found['size_bytes'])}"), ("fingerprint", str(found["fingerprint"])),
    ):  # fmt: skip
        table.add_row(*row)
    out.print(table, highlight=False, markup=False)
    for what, names in (
        ("own features", found.get("own_columns")),
        ("passed over", _object(found["profile"]).get("ignored_columns")),
    ):
        if _length(names):
            out.print(f"{what}: {_joined(names)}", markup=False, highlight=False)
    _print_warnings([*_strings(plan["warnings"]), *_strings(_object(found["profile"]).get("warnings"))])
    for name in _strings(found.get("named_like_targets")):
        out.print(f"named like a target, refused unless allow_leaks lists it: {name}", markup=False, highlight=False)
    if registered := _strings(plan["registered"]):
        out.print(f"this content is registered already: {', '.join(registered)}", markup=False, highlight=False)


def _print_warnings(warnings: JsonValue) -> None:
    for warning in _strings(warnings):
        out.print(f"warning: {warning}", markup=False, highlight=False)


def _object(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _objects(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _strings(value: JsonValue) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _length(value: JsonValue) -> int:
    return len(value) if isinstance(value, list) else 0


def _joined(value: JsonValue) -> str:
    return ", ".join(_strings(value))


def _count(value: JsonValue) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _size(value: JsonValue) -> str:
    return f"{value / 1e6:,.1f} MB" if isinstance(value, int) else "–"


def _period(item: JsonObject) -> str:
    days = _strings(item.get("days"))
    return _count(item["num_days"]) + (f", {days[0]} to {days[1]}" if len(days) == 2 else "")
