"""Reference values of alphalens-reloaded, empyrical-reloaded and statsmodels, printed as JSON; run in their own
environment.

It imports none of our modules. `make parity` runs it again; `stored_finance.json` is its stored output.
"""

import importlib.metadata
import json
import sys
import warnings

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
NAMES = ("alphalens-reloaded", "empyrical-reloaded", "statsmodels", "scipy", "pandas", "numpy")


def information_coefficients() -> dict:
    """Six days of 40 stocks, with ties in the scores."""
    from alphalens.performance import factor_information_coefficient

    rng = np.random.default_rng(1)
    days, stocks = 6, 40
    scores = np.round(rng.standard_normal((days, stocks)), 1)
    targets = 0.3 * scores + rng.standard_normal((days, stocks))
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-02", periods=days), range(stocks)], names=["date", "asset"]
    )
    table = pd.DataFrame({"factor": scores.ravel(), "1D": targets.ravel(), "factor_quantile": 1}, index=index)
    values = factor_information_coefficient(table)["1D"]
    return {
        "scores": scores.ravel().tolist(),
        "targets": targets.ravel().tolist(),
        "stocks": stocks,
        "rank_ic": values.tolist(),
    }


def returns() -> dict:
    import empyrical

    values = np.random.default_rng(2).normal(0.0004, 0.012, 300)
    series = pd.Series(values, index=pd.date_range("2023-01-02", periods=300))
    return {
        "returns": values.tolist(),
        "sharpe": float(empyrical.sharpe_ratio(series, period="daily")),
        "max_drawdown": float(empyrical.max_drawdown(series)),
    }


def newey_west() -> dict:
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    values = np.convolve(rng.standard_normal(264), np.ones(5) / 5, mode="valid") + 0.05
    fits = {
        lag: sm.OLS(values, np.ones(len(values))).fit(
            cov_type="HAC", cov_kwds={"maxlags": lag, "use_correction": False}
        )
        for lag in (4, 9, 19)
    }
    return {"values": values.tolist(), "t": {str(lag): float(fit.tvalues[0]) for lag, fit in fits.items()}}


def main() -> None:
    cases = {"information_coefficients": information_coefficients(), "returns": returns(), "newey_west": newey_west()}
    versions = {name: importlib.metadata.version(name) for name in NAMES}
    json.dump({"command": "python tests/parity/reference_finance.py", "versions": versions, "cases": cases}, sys.stdout)


if __name__ == "__main__":
    main()
