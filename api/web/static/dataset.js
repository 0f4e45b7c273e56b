import { count, percent, size, humanize } from "./format.js";
import { followBuild } from "./build.js";
import { METRICS } from "./page-metrics.js";
import { averages, draw } from "./heat.js";
import { callApi, element, fillFacts, fillTable, FINISHED, formatTime, showError, formatNumber } from "./service.js";

const byId = (name) => document.getElementById(name);
const ref = byId("dataset").dataset.ref;
const api = `/datasets/${ref.split("@").map(encodeURIComponent).join("@")}`;
const SHOWN_ELSEWHERE = new Set([
  "num_rows",
  "num_codes",
  "num_days",
  "first_day",
  "last_day",
  "warnings",
  "coverage",
  "null_share",
  "columns",
  "names_series",
  "checks",
  "features",
]);
let dataset = null;

function describe(value) {
  if (Array.isArray(value)) return value.length ? value.map(describe).join("; ") : "none";
  if (value && typeof value === "object")
    return (
      Object.entries(value)
        .map(([name, inner]) => `${humanize(name).toLowerCase()} ${describe(inner)}`)
        .join(", ") || "none"
    );
  if (typeof value !== "number") return String(value ?? "–");
  return value !== 0 && Math.abs(value) < 1e-3
    ? String(Number(value.toPrecision(2)))
    : value.toLocaleString(undefined, { maximumFractionDigits: 4 });
}

function showFacts() {
  document.title = `${dataset.name} · dataset · ATFT`;
  byId("short").textContent = `${dataset.name}@${dataset.version}`;
  byId("name").textContent = `${dataset.name}, version ${dataset.version}`;
  fillFacts(byId("facts"), [
    ["Rows", count(dataset.num_rows)],
    ["Stocks", count(dataset.num_codes)],
    ["Trading days", `${count(dataset.num_days)}${dataset.days ? `, ${dataset.days[0]} to ${dataset.days[1]}` : ""}`],
    ["Horizons", dataset.horizons.map((horizon) => `${horizon} d`).join(", ")],
    ["Features", `${dataset.columns.length} across stocks, ${dataset.market_columns.length} market-wide`],
    ["Size", size(dataset.size_bytes)],
    ["Fingerprint", dataset.fingerprint],
    ["Created", formatTime(dataset.created_at)],
    [
      "Normalised",
      Object.entries(dataset.normalisation)
        .map(([what, how]) => `${what}: ${how}`)
        .join(". "),
    ],
  ]);
}

function showProfile() {
  const { profile } = dataset;
  const warnings = profile.warnings || [];
  byId("warnings").replaceChildren(...(warnings.length ? warnings : ["None."]).map((text) => element("li", {}, text)));
  byId("warnings-title").textContent = warnings.length ? `Warnings (${warnings.length})` : "Warnings";
  const nulls = Object.entries(profile.null_share || {})
    .filter(([, share]) => share > 0)
    .sort(([, a], [, b]) => b - a);
  fillFacts(byId("profile"), [
    ...Object.entries(profile)
      .filter(([name]) => !SHOWN_ELSEWHERE.has(name))
      .map(([name, value]) => [
        humanize(name),
        name.endsWith("_share") && typeof value === "number" ? percent(value) : describe(value),
      ]),
    [
      "Missing values",
      nulls
        .slice(0, 40)
        .map(([name, share]) => `${name} ${percent(share)}`)
        .join(", ") + (nulls.length > 40 ? `, and ${nulls.length - 40} more columns` : "") || "none",
    ],
  ]);
  showChecks();
  showCoverage();
}

function showCoverage() {
  const { coverage } = dataset.profile;
  byId("coverage-section").hidden = !coverage?.period?.length;
  if (byId("coverage-section").hidden) return;
  const matrix = {
    periods: coverage.period.map((day) => day.slice(0, 7)),
    groups: coverage.codes,
    share: coverage.share,
  };
  draw(byId("coverage"), matrix, `Coverage from ${matrix.periods[0]} to ${matrix.periods.at(-1)}: ${averages(matrix)}`);
  byId("coverage-text").textContent = `On average: ${averages(matrix)}.`;
}

function showChecks() {
  const checks = dataset.profile.checks || [];
  byId("checks").hidden = checks.length === 0;
  const limit = (one) =>
    [
      [one.warn_above, "warns above"],
      [one.refuse_above, "refuses above"],
    ]
      .filter(([value]) => typeof value === "number")
      .map(([value, what]) => `${what} ${describe(value)}`)
      .join(", ");
  fillTable(
    byId("checks"),
    ["Check", "Found", "Limits", "Result"],
    checks.map((one) => [
      humanize(one.check),
      typeof one.value === "number" ? describe(one.value) : "–",
      limit(one),
      one.message ? `${one.state}: ${one.message}` : one.state,
    ]),
    ["Found"],
  );
}

function showLeaks() {
  const report = dataset.leak_report;
  const suspected = report.suspected || [],
    allowed = report.allowed || [],
    named = report.named_like_targets || [];
  const above = report.limit ? ` (|mean daily RankIC| above ${report.limit})` : "";
  const none = report.limit
    ? `: none has a mean daily RankIC beyond ±${report.limit} that chance does not explain`
    : "";
  byId("leaks-text").textContent = [
    suspected.length
      ? `${suspected.length} features predict the next returns better than is plausible${above}.`
      : `No feature is suspected${none}.`,
    named.length ? `Named like a target: ${named.join(", ")}.` : "",
    allowed.length ? `Allowed at registration: ${allowed.join(", ")}.` : "",
    report.num_days ? `Checked on ${report.num_days} days.` : "",
  ]
    .filter(Boolean)
    .join(" ");
  const flagged = new Set(suspected.map((one) => one.feature));
  fillTable(
    byId("leaks"),
    ["Feature", "Mean daily RankIC", "Horizon", ""],
    (report.strongest || []).map((one) => [
      one.feature,
      formatNumber(one.rank_ic),
      one.horizon === null ? "next day" : `${one.horizon} d`,
      flagged.has(one.feature) ? (allowed.includes(one.feature) ? "allowed" : "suspected") : "",
    ]),
    ["Mean daily RankIC", "Horizon"],
  );
}

function showFeatures() {
  const search = byId("search").value.trim().toLowerCase();
  const all = [
    ...dataset.columns.map((name) => [name, "across stocks"]),
    ...dataset.market_columns.map((name) => [name, "market-wide"]),
  ];
  const rows = all
    .map(([name, kind]) => [name, dataset.formulas[name] || "", kind, percent(dataset.profile.null_share?.[name])])
    .filter((row) => row.slice(0, 3).some((text) => text.toLowerCase().includes(search)));
  byId("matches").textContent = `${rows.length} of ${all.length}`;
  fillTable(byId("features"), ["Feature", "Formula", "Kind", "Missing in the file"], rows, ["Missing in the file"]);
}

function describeOrigin(origin) {
  if (origin.kind === "planted") return "planted";
  return origin.files
    .map((file) => {
      const bytes = file.size_bytes ? ` (${size(file.size_bytes)})` : "";
      return `${file.name || "a file"}${bytes}${file.role === "panel" ? "" : `, as ${file.role}`}`;
    })
    .join("; ");
}

function showVersions() {
  fillTable(
    byId("versions"),
    ["Version", "Created", "Source", "Jobs", "Size", "Delete"],
    dataset.versions.map((one) => [
      one.version === dataset.version
        ? `${one.version} (this)`
        : element("a", { href: `/ui/datasets/${encodeURIComponent(dataset.name)}@${one.version}` }, one.version),
      twoLines(
        element("a", { href: `/ui/jobs/${one.job_id}` }, formatTime(one.created_at)),
        `by ${one.origin.by}${one.origin.versions.atft ? `, atft ${one.origin.versions.atft}` : ""}`,
      ),
      twoLines(
        `${one.origin.kind === "planted" ? "" : `${one.origin.kind}: `}${describeOrigin(one.origin)}`,
        one.origin.source_sha256 ? `SHA-256 ${one.origin.source_sha256.slice(0, 16)}…` : "",
      ),
      element(
        "a",
        { href: one.jobs, "aria-label": `${one.num_jobs} jobs on version ${one.version}, as JSON` },
        one.num_unfinished_jobs ? `${one.num_jobs} (${one.num_unfinished_jobs} unfinished)` : one.num_jobs,
      ),
      size(one.size_bytes),
      deleteButton(`${dataset.name}@${one.version}`, one.version),
    ]),
    ["Jobs", "Size"],
  );
}

function twoLines(first, second) {
  return element("span", {}, first, element("span", { class: "quiet under" }, second));
}

function deleteButton(target, version) {
  const button = element(
    "button",
    { type: "button", class: "danger", "aria-label": `Delete version ${version}` },
    "Delete…",
  );
  button.addEventListener("click", () =>
    confirmDelete(target, `Version ${version} of “${dataset.name}” is deleted, with its cache.`),
  );
  return button;
}

async function showJobs() {
  const page = await callApi(
    `/jobs?${new URLSearchParams({ dataset: `${dataset.name}@${dataset.version}`, limit: "20" })}`,
  );
  const jobs = page.items.filter((job) => job.kind !== "dataset");
  byId("no-jobs").hidden = jobs.length > 0;
  byId("jobs").hidden = jobs.length === 0;
  fillTable(
    byId("jobs"),
    ["Job", "State", METRICS.leading.name, "Created"],
    jobs.map((job) => [
      element("a", { href: job.links.page }, job.name || `${job.kind} ${job.id.slice(-8)}`),
      element("span", { class: `state ${job.status}` }, job.status),
      formatNumber(job.metrics[METRICS.leading.name]),
      formatTime(job.created_at),
    ]),
    [METRICS.leading.name],
  );
}

// -- deleting

let deleteTarget = null;
function confirmDelete(target, text) {
  deleteTarget = target;
  byId("confirm-title").textContent = `Delete ${target}?`;
  byId("confirm-text").textContent =
    `${text} Finished jobs keep their results, but cannot be run again without the data. This cannot be undone.`;
  byId("confirm-problem").hidden = true;
  byId("confirm").showModal();
}

byId("delete").addEventListener("click", () =>
  confirmDelete(
    dataset.name,
    dataset.versions.length === 1
      ? "The dataset is deleted, with its cache."
      : `All ${dataset.versions.length} versions are deleted, with their caches.`,
  ),
);
byId("confirm-delete").addEventListener("click", async () => {
  byId("confirm-delete").disabled = true;
  try {
    await callApi(`/datasets/${deleteTarget.split("@").map(encodeURIComponent).join("@")}`, { method: "DELETE" });
    const left = deleteTarget !== dataset.name && dataset.versions.length > 1;
    location.assign(left ? `/ui/datasets/${encodeURIComponent(dataset.name)}` : "/ui/datasets");
  } catch (error) {
    byId("confirm-problem").textContent = error.message;
    byId("confirm-problem").hidden = false;
  } finally {
    byId("confirm-delete").disabled = false;
  }
});

async function load() {
  dataset = await callApi(api);
  showFacts();
  showProfile();
  showLeaks();
  showFeatures();
  showVersions();
  byId("found").hidden = byId("delete").hidden = false;
  showCoverage();
  byId("links").replaceChildren(
    element("a", { href: api }, "this dataset as JSON"),
    element("a", { href: "/docs#/datasets/get_dataset" }, "API"),
  );
  await showJobs();
}

byId("search").addEventListener("input", showFeatures);
window.addEventListener("resize", () => {
  if (dataset) showCoverage();
});
byId("name").textContent = byId("short").textContent = ref;
const builds = await callApi(
  `/jobs?${new URLSearchParams({ dataset: ref.split("@")[0], kind: "dataset", limit: "1" })}`,
).catch(() => ({ items: [] }));
const building = builds.items.find((job) => !FINISHED.has(job.state));
await load().catch((error) => {
  if (!building) showError(error);
});
if (building)
  await followBuild(building.id, (job) => {
    if (job.state === "succeeded") load().catch(showError);
  }).catch(showError);
