// What the plots compute: ticks, scales, paths with gaps, the best trial.
import assert from "node:assert/strict";
import { test } from "node:test";
import { averages } from "../../api/web/static/heat.js";
import { isNumber, linePath, ticks } from "../../api/web/static/plot.js";
import { bestTrial, scale } from "../../api/web/static/plots.js";

test("ticks are round, lie within the range and include its ends", () => {
  const labels = (...range) => {
    const { values, digits } = ticks(...range);
    return values.map((value) => value.toFixed(digits)).join(" ");
  };
  assert.equal(labels(0, 10, 5), "0 2 4 6 8 10");
  assert.equal(labels(1, 7, 6), "1 2 3 4 5 6 7");
  assert.equal(labels(-0.013, 0.021, 5), "-0.01 0.00 0.01 0.02");
  assert.equal(labels(0, 1e6, 2), "0 500000 1000000");
});

test("an undefined value is a gap in the line, not a point at 0", () => {
  const path = (values) =>
    linePath(
      values.map((_, i) => i),
      values,
      (x) => 10 * x,
      (y) => -y,
    );
  assert.equal(path([1, 2, null, 4, 5]), "M0.0 -1.0L10.0 -2.0M30.0 -4.0L40.0 -5.0");
  assert.equal(path([null, undefined, 3]), "M20.0 -3.0");
  assert.equal(path([null, NaN]), "");
});

test("only a finite number is a number", () => {
  assert.deepEqual([0, -1.5, null, undefined, NaN, Infinity, "1", true].filter(isNumber), [0, -1.5]);
});

test("the best trial by direction: trials without a value do not count, and of equals the first is it", () => {
  const trials = [null, 0.2, -0.1, 0.2, undefined].map((value, number) => ({ number, value }));
  assert.equal(bestTrial(trials, false).number, 1);
  assert.equal(bestTrial(trials, true).number, 2);
  assert.equal(bestTrial([{ value: null }], true), null);
});

test("a parameter's position in its search space", () => {
  const linear = scale({ low: 1, high: 5 }, [2]);
  assert.equal(linear.position(2), 0.25);
  assert.deepEqual(linear.labels, [
    [0, "1"],
    [1, "5"],
  ]);
  assert.ok(Math.abs(scale({ low: 1e-4, high: 1e-2, log: true }, [1e-3]).position(1e-3) - 0.5) < 1e-12);
  assert.equal(scale({ low: 3, high: 3 }, [3]).position(3), 0.5);
  const choice = scale({ kind: "categorical", choices: ["adam", null, 8] }, ["adam"]);
  assert.deepEqual(choice.labels, [
    [0, "adam"],
    [0.5, "–"],
    [1, "8"],
  ]);
  assert.deepEqual(
    scale(undefined, ["a", "b", "a"]).labels.map(([, label]) => label),
    ["a", "b"],
  );
});

test("the average share of a group leaves out unknown months", () => {
  const groups = ["large", "small", "new"];
  const share = [
    [1, null, 0.5],
    [0, 0],
  ];
  assert.equal(averages({ groups, share }), "large 75 %, small 0 %, new –");
});
