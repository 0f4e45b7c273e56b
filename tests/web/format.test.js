// Numbers, durations and times as the page shows them. What is unknown is "–", never 0.
import assert from "node:assert/strict";
import { test } from "node:test";
import { count, humanize, percent, size } from "../../api/web/static/format.js";
import { formatShort } from "../../api/web/static/plot.js";
import { formatDuration, formatNumber, formatTime, progressText } from "../../api/web/static/service.js";

const each = (format, cases) => {
  for (const [value, expected] of cases) assert.equal(format(value), expected, `of ${JSON.stringify(value)}`);
};

test("an unknown value is never shown as 0", () => {
  for (const format of [size, count, percent, formatNumber, formatShort, formatTime])
    each(format, [
      [null, "–"],
      [undefined, "–"],
    ]);
  each(formatDuration, [
    [null, ""],
    [NaN, ""],
  ]);
  assert.equal(progressText(null), "");
});

test("sizes", () =>
  each(size, [
    [0, "0 bytes"],
    [999, "999 bytes"],
    [1000, "1.0 kB"],
    [999_949, "999.9 kB"],
    [999_950, "1.0 MB"],
    [2_500_000_000, "2.5 GB"],
    [3e15, "3000.0 TB"],
  ]));

test("counts have separators of thousands, and 0 is 0", () => {
  assert.equal(count(0), "0");
  assert.equal(count(1234567).replace(/\D/g, ""), "1234567");
});

test("a share is 0 % or 100 % only if it is exactly that", () =>
  each(percent, [
    [0, "0 %"],
    [1, "100 %"],
    [0.00001, "0.001 %"],
    [0.0123, "1.23 %"],
    [0.5, "50 %"],
    [0.9951, "99.51 %"],
    [0.99999, "> 99.99 %"],
  ]));

test("a number that would show as 0 keeps two digits", () => {
  each(formatNumber, [
    [0, "0.0000"],
    [0.04321, "0.0432"],
    [-0.04321, "-0.0432"],
    [0.0000123, "0.000012"],
    [-0.0000123, "-0.000012"],
  ]);
  assert.equal(formatNumber(2.345, 2), "2.35");
  assert.equal(formatNumber(120, 0), "120");
});

test("short numbers keep four digits, very small and large ones an exponent", () =>
  each(formatShort, [
    [0, "0"],
    [0.001, "0.001"],
    [0.00003, "3.0e-5"],
    [123456, "1.2e+5"],
    [0.123456, "0.1235"],
    ["cosine", "cosine"],
    [false, "false"],
  ]));

test("durations are rounded without ever showing 60 seconds or 60 minutes", () =>
  each(formatDuration, [
    [0, "0 s"],
    [59.4, "59 s"],
    [59.6, "1 min 0 s"],
    [61, "1 min 1 s"],
    [3599.4, "59 min 59 s"],
    [3599.6, "1 h 0 min"],
    [7199, "2 h 0 min"],
    [90_000, "25 h 0 min"],
  ]));

test("a time is shown in the reader's time zone", () => {
  const before = process.env.TZ;
  try {
    process.env.TZ = "Asia/Tokyo";
    assert.match(formatTime("2026-03-04T23:30:00Z"), /(^|\D)0?5(\D.*)? 0?8:30:00/);
    process.env.TZ = "America/New_York";
    assert.match(formatTime("2026-03-04T23:30:00Z"), /(^|\D)0?4(\D.*)? (6|18):30:00/);
  } finally {
    if (before === undefined) delete process.env.TZ;
    else process.env.TZ = before;
  }
});

test("progress names what is known and leaves out what is not", () => {
  const progress = { ratio: 0.416, phase: "training", epoch: 2, epochs: 5, step: 10, steps: 40 };
  assert.equal(progressText(progress), "42 % · training · epoch 2 of 5 · step 10 of 40");
  assert.equal(
    progressText({ ratio: 0.5, samples_per_second: 99.6, eta_seconds: 0 }),
    "50 % · 100 samples/s · 0 s left",
  );
  assert.equal(progressText({ ratio: 0, eta_seconds: null }), "0 %");
  assert.equal(
    progressText({ ratio: 0.25, phase: "trials", step: 5, steps: 20, epochs: 3, epoch: 1, eta_seconds: 61 }),
    "25 % · 5 of 20 trials ended · 1 min 1 s left",
  );
});

test("a key as a title", () =>
  each(humanize, [
    ["zero_volume_share", "Zero volume share"],
    ["num_rows", "Rows"],
  ]));
