"""The limits of the data-quality checks: the values above which a panel gets a warning or is refused.

`docs/data-checks.md` shows the same table; a test compares them. Errors without a degree (unreadable cells, a repeated
(date, code), prices that are not positive, returns above +100,000 % a day) are refused while reading instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from atft.data.schema import DataError

MAX_DAILY_MOVE = 0.5  # |return| of a day
GAP_DAYS = 7  # calendar days between two trading days from which on a gap is listed
THIN_SHARE = 0.2  # of the median number of names
STILL_SHARE = 0.95  # of the closes known on two days
MIN_STILL_NAMES = 5  # closes known on two days, from which on a day without a move is listed
LAST_DAYS = 5  # a stock with a close on one of these last trading days is still listed
MIN_SURVIVOR_DAYS = 250  # trading days after which some stocks should have been delisted
PRICE_TOLERANCE = 1.0001  # vendors round adjusted prices
MIN_STOCKS = 30  # data.min_names of a run, unless it says otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: a value above `warn` gives a warning, above `refuse` (None: never) the panel is refused."""

    name: str
    value: str
    warn: float
    refuse: float | None
    advice: str

    def number(self, value: float | None) -> str:
        """`value` for a message, in per cent if it is a share."""
        if value is None:
            return "undefined"
        return f"{value:.3%}" if "share" in self.value else f"{value:.6g}"


CHECKS = {
    check.name: check
    for check in (
        Check(
            name="jumps",
            value=f"share of daily returns beyond ±{MAX_DAILY_MOVE:.0%}",
            warn=0.0,
            refuse=0.01,
            advice="missed splits, or prices that are not adjusted?",
        ),
        Check(
            name="outside_range",
            value="share of rows whose open or close lies outside of low … high",
            warn=0.0,
            refuse=0.2,
            advice="are the columns mapped to the right prices, all adjusted alike?",
        ),
        Check(
            name="unchanged_close",
            value="share of closes equal to the day before",
            warn=0.3,
            refuse=0.95,
            advice="stale prices?",
        ),
        Check(
            name="zero_volume",
            value="share of rows with volume 0",
            warn=0.1,
            refuse=None,
            advice="are these days without trading?",
        ),
        Check(
            name="empty_close",
            value="share of rows without a close",
            warn=0.05,
            refuse=0.9,
            advice="they count as halts",
        ),
        Check(
            name="empty_columns",
            value="largest share of missing values among the other columns, sector aside",
            warn=0.5,
            refuse=None,
            advice="a missing feature is 0, the day's median; a feature that is listed and 99 % empty is refused",
        ),
        Check(
            name="constant_columns",
            value="number of columns that never change",
            warn=0.0,
            refuse=None,
            advice="they say nothing and are no features",
        ),
        Check(
            name="filled_days",
            value="share of stock-days inside listed spans that are missing and filled as halts",
            warn=0.05,
            refuse=0.8,
            advice="is this a daily panel, and is every code one stock?",
        ),
        Check(
            name="unordered_rows",
            value="number of rows whose date is earlier than that of the row above of the same code",
            warn=0.0,
            refuse=None,
            advice="they were sorted; was the file put together from overlapping parts?",
        ),
        Check(
            name="calendar_gap",
            value="longest time without trading, in calendar days",
            warn=2.0 * GAP_DAYS,
            refuse=None,
            advice="is a part of the file missing?",
        ),
        Check(
            name="weekend_days",
            value="number of trading days that are Saturdays or Sundays",
            warn=0.0,
            refuse=None,
            advice="are the dates those of the exchange's own time zone, and were days without trading filled in?",
        ),
        Check(
            name="still_days",
            value=f"number of days on which {STILL_SHARE:.0%} of the closes or more equal those of the day before",
            warn=0.0,
            refuse=None,
            advice="days without trading that were filled in: leave them out, their labels are returns of nothing",
        ),
        Check(
            name="thin_days",
            value=f"number of days with fewer than {THIN_SHARE:.0%} of the usual number of names",
            warn=0.0,
            refuse=None,
            advice="holidays of a part of the market, or a part of the file that is missing?",
        ),
        Check(
            name="survivors",
            value=f"share of names still listed on the last {LAST_DAYS} days, in a panel of more than "
            f"{MIN_SURVIVOR_DAYS} days",
            warn=0.95,
            refuse=None,
            advice="almost only survivors: names that failed are missing, so that levels of return are not to be had",
        ),
        Check(
            name="few_names",
            value=f"share of days with fewer than {MIN_STOCKS} names",
            warn=0.5,
            refuse=None,
            advice=f"a run scores no such day unless its data.min_names is below {MIN_STOCKS}",
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The value of one check, the number of rows concerned, and examples of them with date and code."""

    check: str
    value: float | None  # None: undefined here
    count: int | None = None  # of the rows concerned
    rows: Sequence[str] = ()

    @property
    def state(self) -> Literal["ok", "warn", "refuse"]:
        check = CHECKS[self.check]
        if self.value is None or self.value <= check.warn:
            return "ok"
        return "warn" if check.refuse is None or self.value <= check.refuse else "refuse"

    @property
    def message(self) -> str:
        check = CHECKS[self.check]
        such = f", such as {'; '.join(self.rows)}" if self.rows else ""
        number = check.number(self.value) + (f" ({self.count:,})" if self.count is not None else "")
        return f"{check.value}: {number}{such}. {check.advice[0].upper()}{check.advice[1:]}"

    def to_json(self) -> dict[str, object]:
        """The check, its limits and the finding as JSON."""
        check = CHECKS[self.check]
        return {
            "check": self.check,
            "value": self.value,
            "count": self.count,
            "warn_above": check.warn,
            "refuse_above": check.refuse,
            "state": self.state,
            "message": self.message if self.state != "ok" else None,
            "rows": list(self.rows),
        }


def check_findings(findings: Sequence[Finding]) -> list[str]:
    """The warnings of `findings`. Raises DataError, naming limits and rows, if one is above its refusal limit."""
    found = [(f, CHECKS[f.check]) for f in findings]
    refused = [f"{f.message} (limit {check.number(check.refuse)})" for f, check in found if f.state == "refuse"]
    if refused:
        raise DataError(f"the panel cannot be trusted: {'; '.join(refused)}. Correct the file and submit again")
    return [f.message for f in findings if f.state == "warn"]
