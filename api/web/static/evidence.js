// The table of evidence: each setting as requested, and as it ran.
import { formatShort } from "./plot.js";
import { fillTable } from "./service.js";

const byId = (name) => document.getElementById(name);
const section = (job, name) => (job.spec?.base ?? job.spec)?.[name] ?? {};

export function showEvidence(job, evidence) {
  byId("evidence-section").hidden = Object.keys(evidence).length === 0;
  if (byId("evidence-section").hidden) return;
  const { optimizer, scheduler, threads, data, versions, seeds, modules, git } = evidence;
  const split = section(job, "split"),
    optimizerSpec = section(job, "optimizer"),
    schedulerSpec = section(job, "scheduler"),
    resources = section(job, "resources");
  const countOf = (value) => (Array.isArray(value) ? value.length : value);
  const joinPairs = (pairs) =>
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([key, value]) => `${key} ${value}`)
      .join(", ");
  const rates = scheduler?.lr_by_epoch ?? [];
  const rows = [
    [
      "Model",
      job.spec?.model?.length && job.spec.model,
      evidence.model?.sha256 && `${evidence.model.weights}, SHA-256 ${evidence.model.sha256.slice(0, 16)}`,
    ],
    [
      "Days",
      `${job.spec?.from_day} to ${job.spec?.to_day}`,
      data?.days &&
        `${data.days[0]} to ${data.days.at(-1)}: ${data.days.length} days, ${data.num_learned_days} of them known to the model`,
    ],
    [
      "Rows",
      "",
      evidence.rows !== undefined &&
        `${evidence.rows.toLocaleString()}, ${evidence.rows_scored.toLocaleString()} of them with scores`,
    ],
    [
      "Optimizer",
      joinPairs([
        ["", optimizerSpec.name],
        ["lr", formatShort(optimizerSpec.lr)],
        ["weight decay", formatShort(optimizerSpec.weight_decay)],
      ]),
      optimizer &&
        `${optimizer.class} ${optimizer.version || ""}, its state: ${(optimizer.state_keys || []).join(", ")}`,
    ],
    [
      "Learning rate",
      schedulerSpec.name,
      scheduler &&
        `${scheduler.class}: ${rates
          .slice(0, 12)
          .map((rate) => formatShort(Number(rate)))
          .join(", ")}${rates.length > 12 ? ", …" : ""}`,
    ],
    [
      "Device",
      joinPairs([
        ["queue", resources.queue],
        ["device", resources.device],
        ["precision", section(job, "trainer").precision],
      ]),
      [evidence.device, evidence.device_name, evidence.precision, evidence.compiled ? "compiled" : ""]
        .filter(Boolean)
        .join(", "),
    ],
    [
      "Threads",
      resources.threads,
      threads && `torch ${threads.torch_num_threads}, at most ${threads.os_threads_peak ?? "–"} of the system`,
    ],
    [
      "Days",
      joinPairs([
        ["validation", split.val_days],
        ["test", split.test_days],
        ["embargo", split.embargo_days],
      ]),
      data?.train_days &&
        `training ${countOf(data.train_days) ?? "–"}, validation ${countOf(data.val_days) ?? "–"}, test ${countOf(data.test_days) ?? "–"}, embargo ${data.embargo_days}`,
    ],
    [
      "Data",
      job.dataset_fingerprint,
      data && `${data.fingerprint}: ${data.num_rows?.toLocaleString()} rows, ${data.num_features} features`,
    ],
    [
      "Seed",
      job.spec?.seeds?.join(", ") ?? job.spec?.seed,
      seeds &&
        (evidence.members
          ?.map(({ seed, best_epoch }) => (best_epoch ? `${seed} (best epoch ${best_epoch})` : seed))
          .join(", ") ??
          `${seeds.seed}`),
    ],
    [
      "Network",
      joinPairs([
        ["hidden size", section(job, "model").hidden_size],
        ["layers", section(job, "model").gat_layers],
      ]),
      modules &&
        `${Object.values(modules)
          .reduce((sum, one) => sum + (one.parameters ?? 0), 0)
          .toLocaleString()} parameters in ${Object.keys(modules).join(", ")}`,
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
  fillTable(
    byId("evidence"),
    ["", "Requested", "Ran"],
    rows.filter(([, , ran]) => ran).map(([name, want, ran]) => [name, want ?? "", ran]),
  );
  byId("evidence").classList.add("wrap");
}
