// What a submitted job asks for, as it is typed, sent, copied and proved: fields, snippets, evidence.
import assert from "node:assert/strict";
import { test } from "node:test";
import { evidenceRows } from "../../api/web/static/evidence.js";
import { formatValue, parseValue, sameValue } from "../../api/web/static/form.js";
import { curlCommand, pythonProgram } from "../../api/web/static/snippets.js";

test("a field's text becomes a value of its type", () => {
  const read = (typed, type, items) => parseValue(typed, { type, items });
  assert.equal(read("0", "integer"), 0);
  assert.equal(read("3e-4", "number"), 0.0003);
  assert.equal(read("true", "boolean"), true);
  assert.equal(read("false", "boolean"), false);
  assert.equal(read("null", "number"), null);
  assert.equal(read("5", "string"), "5");
  assert.deepEqual(read("1, 5,, 20", "array", "integer"), [1, 5, 20]);
  assert.deepEqual(read("a, b", "array", "string"), ["a", "b"]);
  assert.deepEqual(read('["a,b"]', "array", "string"), ["a,b"]);
  assert.deepEqual(read('{"lr": 1}', "json"), { lr: 1 });
});

test("text that is no value is sent as it is, so that the service says what is wrong", () => {
  for (const [typed, type] of [
    ["many", "integer"],
    ["1,000", "number"],
    ["Infinity", "number"],
    ["{lr", "json"],
    ["[1,", "array"],
  ])
    assert.equal(parseValue(typed, { type }), typed);
  assert.deepEqual(parseValue("1, x", { type: "array", items: "integer" }), [1, "x"]);
});

test("a value fills in its field so that it is read again as the same value", () => {
  for (const [value, type, items] of [
    [[1, 5, 20], "array", "integer"],
    [["a", "b"], "array", "string"],
    [["a,b", "c"], "array", "string"],
    [0.0003, "number"],
    [0, "integer"],
    [false, "boolean"],
    ["plain", "string"],
    [{ lr: { low: 1, high: null } }, "json"],
  ])
    assert.deepEqual(parseValue(formatValue(value), { type, items }), value);
});

test("a value equals its default when only absent and null parts differ", () => {
  assert.ok(sameValue({ a: 1, b: null }, { a: 1 }));
  assert.ok(sameValue({ a: { b: [1, 2] } }, { a: { b: [1, 2], c: null } }));
  assert.ok(!sameValue({ a: 1 }, { a: 1, b: 0 }));
  assert.ok(!sameValue({ a: [1, 2] }, { a: [1, 3] }));
  assert.ok(!sameValue(null, {}));
});

const BODY = {
  dataset: 'it\'s "x" \\ $HOME `id`',
  seed: 0,
  deterministic: true,
  tags: {},
  horizons: [1, 5],
  note: null,
};

test("the curl command quotes the body for a shell", () => {
  const command = curlCommand("http://host:8000", "train", BODY);
  assert.ok(command.startsWith("curl -X POST http://host:8000/jobs/train \\\n"));
  const quoted = /-d '(.*)'$/s.exec(command)[1];
  assert.ok(!quoted.replaceAll("'\\''", "").includes("'"), "no quote ends the argument early");
  assert.deepEqual(JSON.parse(quoted.replaceAll("'\\''", "'")), BODY);
});

test("the Python program has Python's constants, and its lines are indented within `with`", () => {
  assert.equal(
    pythonProgram("http://host:8000", "train", { ...BODY, dataset: 'a"b\n', split: { val_days: 20, rest: {} } }),
    `from client.sdk import Client

with Client("http://host:8000") as service:
    job = service.train({
        "dataset": "a\\"b\\n",
        "seed": 0,
        "deterministic": True,
        "tags": {},
        "horizons": [1, 5],
        "note": None,
        "split": {
            "val_days": 20,
            "rest": {},
        },
    })
    print(job.wait().state)`,
  );
});

test("evidence has a row for what ran, and none for what is unknown", () => {
  const job = { spec: { optimizer: { name: "adamw", lr: 0.001, weight_decay: 0 }, resources: { threads: 2 } } };
  assert.deepEqual(evidenceRows(job, {}), []);
  assert.deepEqual(evidenceRows(job, { rows: null, data: null, seeds: null, model: null, git: { sha: null } }), []);
  const rows = evidenceRows(job, {
    optimizer: { class: "AdamW", version: null, state_keys: ["step"] },
    threads: { torch_num_threads: 2, os_threads_peak: null },
    data: {
      train_days: ["2024-01-01"],
      val_days: 0,
      fingerprint: "f",
      num_rows: null,
      num_features: 8,
      embargo_days: 5,
    },
    seeds: { seed: 0 },
    git: { sha: "0123456789abcdef", dirty: true },
  });
  assert.deepEqual(rows, [
    ["Optimizer", "adamw, lr 0.001, weight decay 0", "AdamW, its state: step"],
    ["Threads", 2, "torch 2, at most – of the system"],
    ["Days", "", "training 1, validation 0, test –, embargo 5"],
    ["Data", "", "f: – rows, 8 features"],
    ["Seed", "", "0"],
    ["Code", "", "0123456789ab, with uncommitted changes"],
  ]);
});

test("evidence of a study's trial, of an ensemble and of predictions", () => {
  const rowOf = (name, job, evidence) => evidenceRows(job, evidence).find(([title]) => title === name);
  const base = { base: { model: { hidden_size: 64, gat_layers: 2 } }, seeds: [1, 2] };
  const modules = { encoder: { parameters: 1000 }, head: { parameters: null } };
  const network = rowOf("Network", { spec: base }, { modules });
  assert.equal(network[1], "hidden size 64, layers 2");
  assert.match(network[2], /^1\D?000 parameters in encoder, head$/);
  const members = [{ seed: 1, best_epoch: 7 }, { seed: 2 }];
  assert.deepEqual(rowOf("Seed", { spec: base }, { seeds: {}, members }), ["Seed", "1, 2", "1 (best epoch 7), 2"]);
  const rates = Array.from({ length: 13 }, () => "0.00001");
  const ran = rowOf(
    "Learning rate",
    { spec: {} },
    { scheduler: { class: "CosineAnnealingLR", lr_by_epoch: rates } },
  )[2];
  assert.ok(ran.endsWith("1.0e-5, …"));
  assert.equal(ran.split("1.0e-5").length - 1, 12, "the first twelve");
  const rows = evidenceRows(
    { spec: { model: "a-job", from_day: "2024-01-01", to_day: "2024-02-01" } },
    { model: { weights: "best", sha256: "f".repeat(64) }, rows: 0, rows_scored: 0 },
  );
  assert.deepEqual(rows, [
    ["Model", "a-job", `best, SHA-256 ${"f".repeat(16)}`],
    ["Rows", "", "0, 0 of them with scores"],
  ]);
});
