"""From a user's files to a cache: read strictly, fill the listed spans, make features and targets, look for leaks,
write atomically.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data import features, leaks, market
from atft.data.cache import CacheError, read_manifest
from atft.data.crosssection import CLIP, CrossSection
from atft.data.files import PanelArrays, publish, scratch_folder, scratch_matrix, write_cache
from atft.data.grid import Grid, fill
from atft.data.profile import profile
from atft.data.schema import BUILDER_VERSION, FORMAT_VERSION, Calendar, DataError, Manifest, listing
from atft.data.source import Source, load, source_sha256
from atft.events import Event, Log, Progress
from atft.spec.data import DatasetSpec
from atft.spec.reason import Reason

__all__ = ["BuildResult", "BuildStopped", "DataError", "build", "fingerprint_of", "inspect"]

REPORT = "report.json"  # {profile, leak_report}: a cache says by itself what was found in its source
MIN_DAYS, MIN_CODES = 20, 2
MAX_NULL_SHARE = 0.99
NORMALISATION = {
    "features": f"per day over valid stocks: (x - median) / (1.4826 MAD), clipped to ±{CLIP:g}; missing is 0; "
    "where the MAD is 0 the standard deviation",
    "market": f"(x - mean) / std over the last {market.WINDOW} days up to the day, clipped to ±{market.CLIP:g}; "
    f"0 with fewer than {market.MIN_DAYS} days",
    "beta": f"slope of r on the market over {features.BETA_DAYS} days up to the day; "
    f"1 with fewer than {features.BETA_MIN_DAYS}",
}


class BuildStopped(Exception):
    """The build was asked to stop; nothing is left of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    manifest: Manifest
    profile: dict[str, object]
    leak_report: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What will be in the cache: built features, the file's own columns across stocks, market-wide columns."""

    built: list[features.Feature]
    own: list[str]
    wide: list[str]  # market-wide columns of the file
    market: dict[str, npt.NDArray[np.float64]]
    formulas: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [*(f.name for f in self.built), *self.own]


def fingerprint_of(spec: DatasetSpec, source_sha256: str) -> str:
    """32 hex digits of the content: source bytes, build settings, format. Names and paths do not enter."""
    body = {"format": FORMAT_VERSION, "builder": BUILDER_VERSION, "source": source_sha256, "spec": build_spec(spec)}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def build_spec(spec: DatasetSpec) -> dict[str, object]:
    """`spec` without its name and file names."""
    return spec.model_dump(mode="json", exclude={"name": True, "path": True, "universe": {"file"}, "market": {"file"}})


def inspect(spec: DatasetSpec) -> dict[str, object]:
    """The schema guess, the profile and what would be built, JSON-ready. Writes nothing. Raises DataError as `build`
    does, leaks aside.
    """
    source = load(spec)
    grid = _grid(source, spec)
    plan = _plan(source, grid, spec)
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
        "fingerprint": fingerprint_of(spec, source.sha256),
        "named_like_targets": leaks.named_like_targets(plan.own),
        "profile": profile(source),
    }


def build(
    spec: DatasetSpec,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    known: Path | None = None,
) -> BuildResult:
    """Build the cache of `spec` in the new folder `out`; it appears whole or not at all.

    `known` is a folder of caches by fingerprint: when one of them has this very content, nothing is built.

    Raises DataError (bad or leaking data, full disk), CacheError (`out` holds something else), BuildStopped (`stop`
    said so).
    """

    def step(ratio: float) -> None:
        if stop():
            raise BuildStopped
        emit(Progress(phase="build", ratio=ratio))

    _check_free(out)
    step(0.0)
    if known is not None and (found := _known(known / fingerprint_of(spec, source_sha256(spec)))) is not None:
        emit(Log(level="info", message=f"this content is built already: {found.manifest.fingerprint}"))
        emit(Progress(phase="build", ratio=1.0))
        return found
    source = load(spec)
    step(0.1)
    grid = _grid(source, spec)
    plan = _plan(source, grid, spec)
    about = profile(source) | {"num_filled_rows": int((~grid.valid).sum())}
    for warning in about["warnings"]:  # type: ignore[attr-defined]  # profile's own list of strings
        emit(Log(level="warning", message=warning))
    step(0.2)
    try:
        with scratch_folder(out) as folder, scratch_folder(out) as scratch:
            panel, report = _arrays(source, grid, plan, spec, scratch, step)
            manifest = _write(folder, panel, source, plan, spec, grid)
            (folder / "graphs").mkdir()
            _write_report(folder, {"profile": about, "leak_report": report})
            step(0.95)
            _publish(folder, out, manifest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk is full: {error.strerror}; free some space and submit again", Reason.DISK_FULL
            ) from error
        raise
    emit(Progress(phase="build", ratio=1.0))
    return BuildResult(manifest=manifest, profile=about, leak_report=report)


def _known(folder: Path) -> BuildResult | None:
    """What is in a cache that is whole and tells what was found in its source."""
    try:
        manifest = read_manifest(folder)
        report = json.loads((folder / REPORT).read_bytes())
    except (CacheError, OSError, ValueError):
        return None
    if manifest.fingerprint != folder.name:
        return None
    return BuildResult(manifest=manifest, profile=report["profile"], leak_report=report["leak_report"])


def _write_report(folder: Path, report: dict[str, object]) -> None:
    with (folder / REPORT).open("w", encoding="utf-8") as file:
        json.dump(report, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _grid(source: Source, spec: DatasetSpec) -> Grid:
    grid = fill(source)
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


def _plan(source: Source, grid: Grid, spec: DatasetSpec) -> _Plan:
    built = (
        features.feature_set([r for r in ("open", "high", "low", "close", "volume") if source.has(r)])
        if source.kind == "prices" and spec.build_features
        else []
    )
    built_names = [f.name for f in built]
    clash = [n for n in source.extra if n in built_names]
    if clash:
        raise DataError(
            f"columns {clash} have the names of built features: rename them, or set build_features to false"
        )
    listed = source.roles.listed
    if listed is not None and (missing := [n for n in listed if n not in built_names and n not in source.extra]):
        raise DataError(f"missing features {missing}: there are {listing([*built_names, *source.extra], 40)}")
    extra = [n for n in source.extra if listed is None or n in listed]
    useless = _useless(source.frame, extra)
    if listed is not None and useless:
        raise DataError(
            f"features {sorted(useless)} are constant or at least {MAX_NULL_SHARE:.0%} empty: leave them out"
        )
    source.warnings += [f"column {n!r} is not a feature: it is {why}" for n, why in useless.items()]
    extra = [n for n in extra if n not in useless]
    wide = _market_wide(source.frame, extra)
    raw = (
        {}
        if source.kind == "planted" or not source.has("close")
        else market.derived(grid.returns, grid.valid, grid.day_index, len(grid.days))
    )
    raw |= {n: grid.day_values(source, n) for n in wide} | market.brought(source.market, grid.days)
    own = [n for n in extra if n not in wide]
    if listed is not None:
        built = [f for f in built if f.name in listed]
        own = [n for n in listed if n in own]
    doubled = [n for n in raw if n in own or n in built_names or (n in market.DERIVED and n in wide)]
    if doubled:
        raise DataError(f"market columns {doubled} have the names of other columns: rename them")
    if not built and not own:
        raise DataError("no feature is left: bring numeric columns, or set build_features to true on a price panel")
    formulas = (
        {f.name: f.formula for f in built}
        | dict.fromkeys((*own, *wide), "the file's own column")
        | {n: market.DERIVED[n] for n in raw if n in market.DERIVED}
    )
    values = {n: market.past_normalised(x) for n, x in raw.items()}
    return _Plan(built=built, own=own, wide=wide, market=values, formulas=formulas)


def _useless(frame: pl.DataFrame, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for n in names:
        series = frame[n]
        if series.null_count() >= MAX_NULL_SHARE * len(series):
            found[n] = f"{series.null_count() / len(series):.0%} empty"
        elif series.min() == series.max():
            found[n] = "constant"
    return found


def _market_wide(frame: pl.DataFrame, names: list[str]) -> list[str]:
    """Columns with one value a day: a z-score across stocks would erase them."""
    if not names:
        return []
    same = (
        frame.group_by("@date")
        .agg(
            *((pl.col(n).max() == pl.col(n).min()).fill_null(value=True).alias(f"{n}=") for n in names),
            *((pl.col(n).count() > 1).alias(f"{n}+") for n in names),
        )
        .select((pl.col(f"{n}=").all() & pl.col(f"{n}+").any()).alias(n) for n in names)
        .row(0)
    )
    return [n for n, flag in zip(names, same, strict=True) if flag]


def _arrays(
    source: Source, grid: Grid, plan: _Plan, spec: DatasetSpec, scratch: Path, step: Callable[[float], None]
) -> tuple[PanelArrays, dict[str, object]]:
    matrix = scratch_matrix(scratch, "features", len(grid.day_index), len(plan.names))
    section = CrossSection(grid.day_index, grid.day_offsets, grid.day_rows, grid.valid)
    if source.kind == "features":
        frame = features.with_beta(grid.frame.with_columns(pl.Series("return", grid.returns).fill_nan(None)))
        targets = np.stack([grid.scatter(source.frame[f"@target_{h}d"]) for h in spec.horizons], axis=1).astype(
            np.float32
        )
    else:
        frame = features.with_returns(grid.frame)
        targets = features.forward_returns(frame, spec.horizons)
    for start, block in features.blocks(frame, plan.built):
        for j, column in enumerate(block.iter_columns(), start):
            matrix[:, j] = section.normalised(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
        step(0.2 + 0.5 * (start + block.width) / len(plan.names))
    for j, name in enumerate(plan.own, len(plan.built)):
        matrix[:, j] = section.normalised(grid.scatter(source.frame[name]))
        step(0.2 + 0.5 * (j + 1) / len(plan.names))
    panel = PanelArrays(
        days=grid.days,
        codes=grid.codes,
        sectors=grid.sectors,
        day_index=grid.day_index,
        code_index=grid.code_index,
        sector_index=grid.sector_index,
        valid=grid.valid,
        in_universe=grid.in_universe,
        features=matrix,
        targets=targets,
        returns=grid.returns.astype(np.float32),
        beta=frame["beta"].to_numpy().astype(np.float32),
    )
    report = _leak_report(grid, plan, spec, panel)
    step(0.8)
    return panel, report


def _leak_report(grid: Grid, plan: _Plan, spec: DatasetSpec, panel: PanelArrays) -> dict[str, object]:
    """Raises DataError(leak_suspected) for features that are neither allowed nor, on planted panels, meant to be
    strong.
    """
    unknown = [n for n in spec.allow_leaks if n not in plan.names and n not in plan.wide]
    if unknown:
        raise DataError(
            f"allow_leaks names {unknown}, which are not features of this dataset; they are {listing(plan.names, 40)}"
        )
    report = leaks.suspects(
        panel.features,
        panel.targets,
        grid.valid & grid.in_universe,
        grid.day_offsets,
        grid.day_rows,
        plan.names,
        spec.horizons,
    )
    named = leaks.named_like_targets([*plan.own, *plan.wide])
    suspected: list[dict[str, object]] = report["suspected"]  # type: ignore[assignment]  # leaks.suspects' own list
    strong = [s for s in suspected if s["feature"] not in spec.allow_leaks]
    report |= {"named_like_targets": named, "allowed": list(spec.allow_leaks)}
    if spec.planted is not None and spec.planted.mode != "leak":
        return report
    refused = [f"{n!r} is named like a target" for n in named if n not in spec.allow_leaks]
    refused += [
        f"{s['feature']!r} has a mean daily RankIC of {s['rank_ic']:+.3f} with the {s['horizon']}-day target"
        for s in strong
    ]
    if refused:
        raise DataError(
            f"features that seem to know the future: {'; '.join(refused)} (limit {leaks.LIMIT}). "
            "Remove them, or list those you vouch for in allow_leaks",
            Reason.LEAK_SUSPECTED,
        )
    return report


def _write(folder: Path, panel: PanelArrays, source: Source, plan: _Plan, spec: DatasetSpec, grid: Grid) -> Manifest:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        feature_names=tuple(plan.names),
        market_names=tuple(plan.market),
        horizons=spec.horizons,
        source_sha256=source.sha256,
        build_spec=build_spec(spec),
        fingerprint=fingerprint_of(spec, source.sha256),
        num_days=len(grid.days),
        num_codes=len(grid.codes),
        num_rows=len(grid.day_index),
        normalisation=NORMALISATION,
        feature_formulas=plan.formulas,
        calendar=Calendar(first_day=str(grid.days[0]), last_day=str(grid.days[-1]), num_days=len(grid.days)),
    )
    wide = (
        np.stack(list(plan.market.values()), axis=1).astype(np.float32)
        if plan.market
        else np.zeros((len(grid.days), 0), np.float32)
    )
    oracle = None
    if source.oracle is not None and source.planted_days is not None:
        at = np.searchsorted(source.planted_days, grid.days)[grid.day_index]
        oracle = {name: np.ascontiguousarray(values[at, grid.code_index]) for name, values in source.oracle.items()}
    return write_cache(folder, manifest, panel, wide, oracle)


def _check_free(out: Path) -> None:
    """`out` may be missing, empty, or a whole cache (then it must turn out to be the same one)."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        read_manifest(out)


def _publish(folder: Path, out: Path, manifest: Manifest) -> None:
    if out.exists() and any(out.iterdir()):
        if read_manifest(out).fingerprint == manifest.fingerprint:
            return
        raise CacheError(f"{out.name} holds another cache: give a new folder")
    publish(folder, out)
