// What the page keeps up to date: metrics by events, and the event stream itself.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { applyMetrics, METRICS_QUERY } from "../../api/web/static/metrics.js";
import { followEvents, throttle } from "../../api/web/static/stream.js";

const banner = { hidden: true, textContent: "" };
globalThis.document = { getElementById: () => banner };

// The browser's EventSource: a test sends its events.
class Source extends EventTarget {
  static opened = [];
  closed = false;
  constructor(address) {
    super();
    this.address = address;
    Source.opened.push(this);
  }
  close() {
    this.closed = true;
  }
  send(kind, data) {
    this.dispatchEvent(Object.assign(new Event(kind), { data: JSON.stringify(data) }));
  }
}
globalThis.EventSource = Source;

beforeEach(() => {
  Source.opened.length = 0;
  banner.hidden = true;
});

function stream(t) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const seen = [];
  let retries = 0;
  const stop = followEvents(
    () => `/events?after=${seen.length}`,
    (kind, data) => seen.push([kind, data]),
    () => (retries += 1),
  );
  return { seen, stop, retries: () => retries, tick: (milliseconds) => t.mock.timers.tick(milliseconds) };
}

test("a broken stream is opened again from where it was, and only one is ever open", (t) => {
  const { seen, stop, retries, tick } = stream(t);
  Source.opened[0].send("open");
  Source.opened[0].send("state", { seq: 1 });
  Source.opened[0].send("error");
  tick(999);
  assert.equal(Source.opened.length, 1);
  tick(1);
  assert.deepEqual(
    Source.opened.map(({ address, closed }) => [address, closed]),
    [
      ["/events?after=0", true],
      ["/events?after=1", false],
    ],
  );
  Source.opened[1].send("open");
  Source.opened[1].send("end", { seq: 2 });
  assert.deepEqual(seen, [
    ["state", { seq: 1 }],
    ["end", { seq: 2 }],
  ]);
  assert.equal(retries(), 2, "at the retry and after it");
  stop();
});

test("retries slow down to 15 seconds, and are quick again once a stream has opened", (t) => {
  const { stop, tick } = stream(t);
  const delays = [];
  for (let i = 0; i < 9; i += 1) {
    const opened = Source.opened.length;
    Source.opened.at(-1).send("error");
    let waited = 0;
    for (; Source.opened.length === opened; waited += 100) tick(100);
    delays.push(waited);
  }
  assert.equal(delays[0], 1000);
  assert.ok(delays.every((delay, i) => i === 0 || delay >= delays[i - 1]));
  assert.equal(delays.at(-1), 15000);
  Source.opened.at(-1).send("open");
  Source.opened.at(-1).send("error");
  const opened = Source.opened.length;
  tick(1000);
  assert.equal(Source.opened.length, opened + 1);
  stop();
});

test("the page says that the service cannot be reached, but not for a short break", (t) => {
  const { stop, tick } = stream(t);
  Source.opened[0].send("error");
  tick(1000);
  assert.equal(banner.hidden, true);
  tick(1000);
  assert.equal(banner.hidden, false);
  assert.match(banner.textContent, /cannot be reached/);
  Source.opened.at(-1).send("open");
  Source.opened.at(-1).send("error");
  tick(1000);
  Source.opened.at(-1).send("open");
  tick(60_000);
  assert.equal(banner.hidden, true);
  stop();
});

test("a stopped stream neither reports nor opens again", (t) => {
  const { seen, stop, tick } = stream(t);
  Source.opened[0].send("error");
  stop();
  tick(60_000);
  Source.opened[0].send("state", {});
  Source.opened[0].send("error");
  tick(60_000);
  assert.equal(Source.opened.length, 1);
  assert.equal(Source.opened[0].closed, true);
  assert.deepEqual(seen, []);
  assert.equal(banner.hidden, true);
});

test("a throttled action runs at most once per period, and the last call is not dropped", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let now = 10_000,
    runs = 0;
  t.mock.method(performance, "now", () => now);
  const pass = (milliseconds) => {
    now += milliseconds;
    t.mock.timers.tick(milliseconds);
  };
  const soon = throttle(() => (runs += 1), 1000);
  for (let i = 0; i < 5; i += 1) soon();
  pass(0);
  assert.equal(runs, 1);
  soon();
  pass(999);
  assert.equal(runs, 1);
  pass(1);
  assert.equal(runs, 2);
});

const empty = () => ({ latest: {}, baselines: {}, series: {} });

test("a metrics event extends the series and the newest values; null stays null", () => {
  const metrics = empty(),
    job = { best: null };
  applyMetrics(metrics, job, { step: 1, values: { "val/rank_ic": 0.02, "other/x": 1 } });
  applyMetrics(metrics, job, { step: 2, values: { "val/rank_ic": null } });
  assert.deepEqual(metrics.series, { "val/rank_ic": { step: [1, 2], value: [0.02, null] } });
  assert.equal(metrics.latest["val/rank_ic"], null);
  assert.equal(metrics.latest["other/x"], 1, "shown in no plot, but in the table");
  assert.equal(job.best, null);
});

test("an event that comes twice adds no second point", () => {
  const metrics = empty();
  for (const step of [1, 2, 2, 1]) applyMetrics(metrics, {}, { step, values: { "train/loss": step } });
  assert.deepEqual(metrics.series["train/loss"], { step: [1, 2], value: [1, 2] });
});

test("the best epoch is the event's, with the value of the job's objective", () => {
  const job = { best: { objective: "val/rank_ic", epoch: 1, value: 0.01, metrics: {} } };
  const values = { "val/rank_ic": 0.03, "val/loss": 1 };
  applyMetrics(empty(), job, { step: 4, values, best: true });
  assert.deepEqual(job.best, { objective: "val/rank_ic", epoch: 4, value: 0.03, metrics: values });
  applyMetrics(empty(), job, { step: 5, values: { "val/loss": 1 }, best: true });
  assert.equal(job.best.value, null);
});

test("a baseline's values are kept apart from the model's", () => {
  const metrics = empty();
  applyMetrics(metrics, {}, { step: 1, source: "momentum", values: { "val/rank_ic": 0.01 } });
  applyMetrics(metrics, {}, { step: 1, source: "momentum", values: { "test/rank_ic": 0 } });
  assert.deepEqual(metrics.baselines, { momentum: { "val/rank_ic": 0.01, "test/rank_ic": 0 } });
  assert.deepEqual([metrics.latest, metrics.series], [{}, {}]);
});

test("a series that grows too long is requested again, not kept growing", () => {
  const metrics = empty();
  const limit = 2 * Number(new URLSearchParams(METRICS_QUERY).get("max_points"));
  const apply = (step) => applyMetrics(metrics, {}, { step, values: { "step/lr": step } });
  for (let step = 1; step <= limit; step += 1) assert.equal(apply(step), false);
  assert.equal(apply(limit + 1), true);
});
