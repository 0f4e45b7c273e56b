// The table of evidence: each setting as requested, and as it ran.
import { count } from "./format.js";
import { formatShort } from "./plot.js";
import { fillTable } from "./service.js";

const MAX_RATES = 12;
const byId = (name) => document.getElementById(name);
const section = (job, name) => (job.spec?.base ?? job.spec)?.[name] ?? {};
const countOf = (value) => (Array.isArray(value) ? value.length : (value ?? "–"));
const joinPairs = (pairs) =>
  pairs
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([key, value]) => (key ? `${key} ${value}` : value))
    .join(", ");

export function showEvidence(job, evidence) {
  byId("evidence-section").hidden = Object.keys(evidence).length === 0;
  if (byId("evidence-section").hidden) return;
  fillTable(byId("evidence"), ["", "Requested", "Ran"], evidenceRows(job, evidence));
  byId("evidence").classList.add("wrap");
}

// Rows of [name, requested, ran]; what the job has no evidence of has no row.
export function evidenceRows(job, evidence) {
  return [
    ...predictionRows(job, evidence),
    ...partRows(job, evidence),
    ...resourceRows(job, evidence),
    ...dataRows(job, evidence),
    ...programRows(job, evidence),
  ]
    .filter(([, , ran]) => ran)
    .map(([name, requested, ran]) => [name, requested ?? "", ran]);
}

function predictionRows({ spec }, { model, data, rows, rows_scored }) {
  return [
    [
      "Model",
      typeof spec?.model === "string" ? spec.model : "",
      model?.sha256 && `${model.weights}, SHA-256 ${model.sha256.slice(0, 16)}`,
    ],
    [
      "Days",
      `${spec?.from_day} to ${spec?.to_day}`,
      data?.days &&
        `${data.days[0]} to ${data.days.at(-1)}: ${data.days.length} days, ` +
          `${data.num_learned_days} of them known to the model`,
    ],
    ["Rows", "", typeof rows === "number" && `${count(rows)}, ${count(rows_scored)} of them with scores`],
  ];
}

function partRows(job, { optimizer, scheduler }) {
  const requested = section(job, "optimizer"),
    rates = scheduler?.lr_by_epoch ?? [],
    shownRates = rates.slice(0, MAX_RATES).map((rate) => formatShort(Number(rate)));
  return [
    [
      "Optimizer",
      joinPairs([
        ["", requested.name],
        ["lr", formatShort(requested.lr)],
        ["weight decay", formatShort(requested.weight_decay)],
      ]),
      optimizer &&
        `${[optimizer.class, optimizer.version].filter(Boolean).join(" ")}, ` +
          `its state: ${(optimizer.state_keys || []).join(", ")}`,
    ],
    [
      "Learning rate",
      section(job, "scheduler").name,
      scheduler && `${scheduler.class}: ${shownRates.join(", ")}${rates.length > MAX_RATES ? ", …" : ""}`,
    ],
  ];
}

function resourceRows(job, { device, device_name, precision, compiled, threads }) {
  const requested = section(job, "resources");
  return [
    [
      "Device",
      joinPairs([
        ["queue", requested.queue],
        ["device", requested.device],
        ["precision", section(job, "trainer").precision],
      ]),
      [device, device_name, precision, compiled && "compiled"].filter(Boolean).join(", "),
    ],
    [
      "Threads",
      requested.threads,
      threads && `torch ${threads.torch_num_threads}, at most ${threads.os_threads_peak ?? "–"} of the system`,
    ],
  ];
}

function dataRows(job, { data }) {
  const split = section(job, "split");
  return [
    [
      "Days",
      joinPairs([
        ["validation", split.val_days],
        ["test", split.test_days],
        ["embargo", split.embargo_days],
      ]),
      data?.train_days &&
        `training ${countOf(data.train_days)}, validation ${countOf(data.val_days)}, ` +
          `test ${countOf(data.test_days)}, embargo ${data.embargo_days}`,
    ],
    [
      "Data",
      job.dataset_fingerprint,
      data && `${data.fingerprint}: ${count(data.num_rows)} rows, ${countOf(data.num_features)} features`,
    ],
  ];
}

function programRows(job, { seeds, members, modules, versions, git }) {
  const model = section(job, "model");
  const memberSeeds = members?.map(({ seed, best_epoch }) =>
    best_epoch ? `${seed} (best epoch ${best_epoch})` : seed,
  );
  const parameters = Object.values(modules ?? {}).reduce((sum, one) => sum + (one.parameters ?? 0), 0);
  return [
    ["Seed", job.spec?.seeds?.join(", ") ?? job.spec?.seed, seeds && (memberSeeds?.join(", ") ?? String(seeds.seed))],
    [
      "Network",
      joinPairs([
        ["hidden size", model.hidden_size],
        ["layers", model.gat_layers],
      ]),
      modules && `${count(parameters)} parameters in ${Object.keys(modules).join(", ")}`,
    ],
    [
      "Versions",
      "",
      versions &&
        Object.entries(versions)
          .map(([name, value]) => `${name} ${value}`)
          .join(", "),
    ],
    ["Code", "", git?.sha && `${git.sha.slice(0, 12)}${git.dirty ? ", with uncommitted changes" : ""}`],
  ];
}
