"""Builds a cache from a user's files: reads and validates them, fills halts, computes features and targets, screens for
leaks, writes atomically.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.checksums import sync
from atft.data.builder.crosssection import CLIP
from atft.data.builder.matrix_writer import MatrixWriter, row_layout
from atft.data.builder.plan import Plan, make_plan
from atft.data.builder.version import build_version
from atft.data.cache.reader import CacheError, check_files, read_manifest
from atft.data.checks import leaks
from atft.data.checks.profile import profile
from atft.data.checks.screens import leak_report
from atft.data.checks.targets import check_targets
from atft.data.features import compute, market
from atft.data.files import (
    PanelArrays,
    create_panel_file,
    file_entry,
    publish,
    scratch_folder,
    write_manifest,
    write_side_files,
)
from atft.data.panel.calendar_grid import CalendarGrid, build_grid
from atft.data.panel.source import Source, find_features, load, read, source_sha256
from atft.data.progress import BuildStopped, ProgressReporter, background
from atft.data.schema import FORMAT_VERSION, Calendar, DataError, Manifest
from atft.events import Event, Log, Progress
from atft.spec.data import DatasetSpec, TableFile
from atft.spec.reason import Reason

__all__ = ["BuildResult", "BuildStopped", "DataError", "build", "fingerprint_of", "inspect"]

REPORT = "report.json"  # {profile, leak_report, later_rules}: what was found in the source of this cache
MIN_DAYS, MIN_CODES = 20, 2
READING = {name: DatasetSpec.model_fields[name].default for name in ("on_bad_cell", *TableFile.model_fields)}
NORMALISATION = {
    "features": f"per day over valid stocks: (x - median) / (1.4826 MAD), clipped to ±{CLIP:g}; missing is 0; "
    "where the MAD is 0 the standard deviation",
    "market": f"(x - mean) / std over the last {market.WINDOW} days up to the day, clipped to ±{market.CLIP:g}; "
    f"0 with fewer than {market.MIN_DAYS} days",
    "beta": f"slope of r on the market over {compute.BETA_DAYS} days up to the day; "
    f"1 with fewer than {compute.BETA_MIN_DAYS}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """The manifest of a cache, and the profile and leak report of its source."""

    manifest: Manifest
    profile: dict[str, object]
    leak_report: dict[str, object]

    @property
    def dropped_rows(self) -> list[object]:
        """The rows that were left out, by file; none in reports of releases before `on_bad_cell`."""
        found = self.profile.get("dropped_rows")
        return found if isinstance(found, list) else []


def fingerprint_of(spec: DatasetSpec, source_sha256: str, later_rules: Sequence[str] = ()) -> str:
    """32 hex digits that identify a cache's content: source bytes, build settings and format, not names or paths.

    `later_rules`: see Source. They stand in it only where there are any, so that no other fingerprint has changed.
    """
    body: dict[str, object] = {
        "format": FORMAT_VERSION,
        "builder": build_version(),
        "source": source_sha256,
        "spec": build_spec(spec),
    }
    if later_rules:
        body["rules"] = sorted(later_rules)
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def build_spec(spec: DatasetSpec) -> dict[str, object]:
    """`spec` as JSON without its name and file names, and without settings of reading that say nothing new: they came
    later, and older fingerprints stay.
    """
    body = spec.model_dump(mode="json", exclude={"name": True, "path": True, "universe": {"file"}, "market": {"file"}})
    sides = {key: _without_defaults(body[key]) for key in ("universe", "market") if body[key] is not None}
    return _without_defaults(body) | sides


def _without_defaults(body: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in body.items() if key not in READING or value != READING[key]}


def inspect(spec: DatasetSpec) -> dict[str, object]:
    """The guessed schema, the profile and the planned cache of a source, JSON-ready; writes nothing. Raises DataError
    as `build` does, except for leaks.
    """
    with TemporaryDirectory() as scratch:  # the source's own folder is read-only
        return _inspect_source(load(spec, Path(scratch)), spec)


def _inspect_source(source: Source, spec: DatasetSpec) -> dict[str, object]:
    grid = _grid(source, spec)
    source.warnings += grid.warnings
    if source.kind == "features":
        own = _own_targets(source, grid, spec)
        source.warnings += check_targets(grid, own, spec.horizons, source.roles.targets)
    plan = make_plan(source, grid, spec)
    roles = source.roles
    return {
        "kind": source.kind,
        "columns": roles.columns if source.kind != "planted" else {},
        "targets": {str(h): c for h, c in roles.targets.items()},
        "feature_names": plan.names,
        "market_names": list(plan.market),
        "feature_formulas": plan.formulas,
        "horizons": list(spec.horizons),
        "num_rows": len(grid.day_index),
        "num_days": len(grid.days),
        "num_codes": len(grid.codes),
        "num_filled_rows": int((~grid.valid).sum()),
        "size_bytes": len(grid.day_index) * (4 * (len(plan.names) + len(spec.horizons)) + 32),
        "source_sha256": source.sha256,
        "fingerprint": fingerprint_of(spec, source.sha256, source.later_rules),
        "own_columns": plan.user_columns,
        "named_like_targets": leaks.named_like_targets(plan.file_features),
        "profile": profile(source),
    }


def build(
    spec: DatasetSpec,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    cache_root: Path | None = None,
) -> BuildResult:
    """Build the cache of `spec` in the new folder `out`, atomically.

    `cache_root` is a folder of caches by fingerprint: if one of them has the same content, nothing is built.

    Raises DataError (bad or leaking data, full disk), CacheError (`out` holds something else), BuildStopped (`stop()`
    returned true).
    """
    _check_output(out)
    progress = ProgressReporter(emit, stop)
    if cache_root is not None:
        progress.start_stage("hashing the source", 0.05)
        fingerprint = fingerprint_of(spec, progress.run(lambda: source_sha256(spec)))
        if found := progress.run(partial(_existing_build, cache_root / fingerprint, [])):
            return _reused(found, emit)
    try:
        with scratch_folder(out) as folder, scratch_folder(out) as scratch:
            source = read(spec, scratch, progress)
            planned = _planned(source, spec, progress)
            if cache_root is not None:  # built by rules that only reading could tell of, or before there were any
                fingerprint = fingerprint_of(spec, source.sha256, source.later_rules)
                if found := progress.run(partial(_existing_build, cache_root / fingerprint, None)):
                    return _reused(found, emit)
            manifest, profile_json, report = _write_files(folder, planned, spec, emit, progress)
            (folder / "graphs").mkdir()
            rules = sorted(source.later_rules)
            _write_report(folder, {"profile": profile_json, "leak_report": report, "later_rules": rules})
            _publish(folder, out, manifest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"the disk is full ({os.strerror(error.errno)}); free some space and submit again", Reason.DISK_FULL
            ) from error
        raise
    emit(Progress(phase="build", ratio=1.0))
    return BuildResult(manifest=manifest, profile=profile_json, leak_report=report)


def _reused(found: BuildResult, emit: Callable[[Event], None]) -> BuildResult:
    emit(Log(level="info", message=f"this content is built already: {found.manifest.fingerprint}"))
    emit(Progress(phase="build", ratio=1.0))
    return found


def _existing_build(folder: Path, later_rules: list[str] | None) -> BuildResult | None:
    """The result stored in a whole cache with a report, built under these rules (None: any); else None."""
    try:
        manifest = read_manifest(folder)
        report = json.loads((folder / REPORT).read_bytes())
        found = BuildResult(manifest=manifest, profile=report["profile"], leak_report=report["leak_report"])
        rules = report.get("later_rules")
        check_files(folder, manifest)
    except (CacheError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if manifest.fingerprint == folder.name and later_rules in (None, rules) and manifest.files else None


def _write_report(folder: Path, report: dict[str, object]) -> None:
    with (folder / REPORT).open("w", encoding="utf-8") as file:
        json.dump(report, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _grid(source: Source, spec: DatasetSpec) -> CalendarGrid:
    grid = build_grid(source)
    needed = max(MIN_DAYS, max(spec.horizons) + 2)
    if len(grid.days) < needed:
        raise DataError(
            f"the panel has {len(grid.days)} trading days; horizons {list(spec.horizons)} need at least "
            f"{needed}: bring more days or ask shorter horizons"
        )
    if len(grid.codes) < MIN_CODES:
        raise DataError(f"the panel has {len(grid.codes)} codes; ranking needs at least {MIN_CODES}")
    if not (grid.in_universe & grid.valid).any():
        raise DataError(
            "no row of the panel is in the universe: are the codes of the universe file those of the panel, "
            "and its dates or years the same?"
        )
    return grid


@dataclass(kw_only=True, slots=True)
class _Planned:
    """A source that was read to the end, and what its cache will hold."""

    source: Source
    grid: CalendarGrid
    frame: pl.DataFrame  # the rows of the grid with returns and beta
    targets: npt.NDArray[np.float32]
    plan: Plan


def _planned(source: Source, spec: DatasetSpec, progress: ProgressReporter) -> _Planned:
    grid_future = background(lambda: _grid_with_targets(source, spec))  # needs the role columns only
    find_features(source, progress)
    progress.start_stage("calendar and targets", 0.3, source.table.num_rows)
    grid, frame, targets = progress.wait(grid_future)
    source.warnings += [*grid.warnings, *check_targets(grid, targets, spec.horizons, source.roles.targets)]
    plan = progress.run(lambda: make_plan(source, grid, spec))
    progress.wait(source.sha256_future)
    return _Planned(source=source, grid=grid, frame=frame, targets=targets, plan=plan)


def _write_files(
    folder: Path, planned: _Planned, spec: DatasetSpec, emit: Callable[[Event], None], progress: ProgressReporter
) -> tuple[Manifest, dict[str, object], dict[str, object]]:
    """Write the files of the cache but its report to `folder`; returns the manifest, profile and leak report."""
    source, grid, targets, plan = planned.source, planned.grid, planned.targets, planned.plan
    frame, planned.frame = planned.frame, pl.DataFrame()  # so that it can be freed below
    profile_future, layout_future = background(lambda: profile(source)), background(lambda: row_layout(source, grid))
    panel = PanelArrays(
        days=grid.days,
        codes=grid.codes,
        sectors=grid.sectors,
        day_index=grid.day_index,
        day_offsets=grid.day_offsets,
        day_rows=grid.day_rows,
        code_index=grid.code_index,
        sector_index=grid.sector_index,
        valid=grid.valid,
        in_universe=grid.in_universe,
        targets=targets,
        returns=grid.returns.astype(np.float32),
        beta=frame["beta"].to_numpy().astype(np.float32),
    )
    manifest = _manifest(source, plan, spec, grid)
    matrix = progress.run_to_completion(lambda: create_panel_file(folder, manifest, panel))
    profile_json = progress.wait(profile_future) | {"num_filled_rows": int((~grid.valid).sum())}
    _log_warnings(profile_json, emit)
    progress.start_stage("features", 0.8, len(grid.day_index))
    with MatrixWriter(grid, matrix, progress) as writer:
        writer.write_built(frame, plan.built)
        infinite = {name for name in plan.file_features if source.extra[name].infinite}
        writer.write_columns(source.table, plan.file_features, progress.wait(layout_future), infinite)
    source.check_unchanged()
    profile_json["features"] = writer.summaries  # statistics before normalisation
    del writer, frame, layout_future
    progress.start_stage("hashing and screening", 0.99, len(grid.day_index))
    path = folder / "panel.arrow"
    hash_future = background(lambda: file_entry(path))
    ranked = grid.valid & grid.in_universe
    sample = progress.run(lambda: leaks.sample_days(matrix, ranked, grid.day_offsets, grid.day_rows))
    sync_future = background(
        lambda: sync(path)
    )  # after the sample, which takes four times as long while the disk is busy
    del matrix
    report = progress.run(
        lambda: leak_report(
            source, grid, spec, names=plan.names, user_columns=plan.user_columns, sample=sample, targets=targets
        )
    )
    del sample  # unmapping the panel takes a while, so do it while it is hashed
    _log_warnings(report, emit)
    names = progress.run_to_completion(
        lambda: write_side_files(folder, manifest, panel, _market_matrix(plan, grid), _oracle(source, grid))
    )
    beside = {n: file_entry(folder / n) for n in names}
    entries = {path.name: progress.wait(hash_future), **beside}
    progress.wait(sync_future)
    return write_manifest(folder, manifest, entries), profile_json, report


def _log_warnings(found: dict[str, object], emit: Callable[[Event], None]) -> None:
    for warning in found["warnings"]:  # type: ignore[attr-defined]  # a list of strings
        emit(Log(level="warning", message=warning))


def _grid_with_targets(source: Source, spec: DatasetSpec) -> tuple[CalendarGrid, pl.DataFrame, npt.NDArray[np.float32]]:
    """The calendar grid, its rows with returns and beta, and the targets, [row, horizon]."""
    grid = _grid(source, spec)
    if source.kind != "features":
        frame = compute.with_returns(grid.frame.with_columns(pl.Series("sector", grid.sector_index)))
        return grid, frame, compute.forward_returns(frame, spec.horizons)
    frame = grid.frame.with_columns(pl.Series("return", grid.returns).fill_nan(None))
    return grid, compute.with_beta(frame), _own_targets(source, grid, spec)


def _own_targets(source: Source, grid: CalendarGrid, spec: DatasetSpec) -> npt.NDArray[np.float32]:
    targets = np.empty((len(grid.day_index), len(spec.horizons)), np.float32)
    for k, h in enumerate(spec.horizons):
        targets[:, k] = grid.scatter(source.frame[f"@target_{h}d"])
    return targets


def _manifest(source: Source, plan: Plan, spec: DatasetSpec, grid: CalendarGrid) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        feature_names=tuple(plan.names),
        market_names=tuple(plan.market),
        horizons=spec.horizons,
        source_sha256=source.sha256,
        build_spec=build_spec(spec),
        fingerprint=fingerprint_of(spec, source.sha256, source.later_rules),
        num_days=len(grid.days),
        num_codes=len(grid.codes),
        num_rows=len(grid.day_index),
        normalisation=NORMALISATION,
        feature_formulas=plan.formulas,
        calendar=Calendar(first_day=str(grid.days[0]), last_day=str(grid.days[-1]), num_days=len(grid.days)),
    )


def _market_matrix(plan: Plan, grid: CalendarGrid) -> npt.NDArray[np.float32]:
    if not plan.market:
        return np.zeros((len(grid.days), 0), np.float32)
    return np.stack(list(plan.market.values()), axis=1).astype(np.float32)


def _oracle(source: Source, grid: CalendarGrid) -> dict[str, npt.NDArray[np.float32]] | None:
    if source.oracle is None or source.planted_days is None:
        return None
    at = np.searchsorted(source.planted_days, grid.days)[grid.day_index]
    return {name: np.ascontiguousarray(values[at, grid.code_index]) for name, values in source.oracle.items()}


def _check_output(out: Path) -> None:
    """Raises CacheError unless `out` is missing, empty, or a complete cache (`_publish` compares the content)."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        read_manifest(out)


def _publish(folder: Path, out: Path, manifest: Manifest) -> None:
    if out.exists() and any(out.iterdir()):
        if read_manifest(out).fingerprint == manifest.fingerprint:
            return
        raise CacheError(f"{out.name} holds another cache: give a new folder")
    publish(folder, out)
