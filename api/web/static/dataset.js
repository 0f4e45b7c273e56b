import { count, percent, size, words } from "./amounts.js";
import { follow } from "./build.js";
import { averages, draw } from "./heat.js";
import { ask, element, facts, FINISHED, moment, notice, number } from "./service.js";

const at = (name) => document.getElementById(name);
const ref = at("dataset").dataset.ref;
const api = `/datasets/${ref.split("@").map(encodeURIComponent).join("@")}`;
const TOLD = new Set(["num_rows", "num_codes", "num_days", "first_day", "last_day", "warnings", "coverage", "null_share", "columns", "names_series", "checks", "features"]);
let found = null;

function table(box, titles, rows) {
  const heads = titles.map((title) => element(title ? "th" : "td", { ...(title ? { scope: "col" } : {}), class: title.startsWith("#") ? "number" : "" }, title.replace(/^#/, "")));
  box.replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows.map(([first, ...cells]) => element("tr", {}, element("th", { scope: "row" }, first), ...cells.map((cell, i) => element("td", { class: titles[i + 1].startsWith("#") ? "number" : "" }, cell))))));
}

function told(value) {
  if (Array.isArray(value)) return value.length ? value.map(told).join("; ") : "none";
  if (value && typeof value === "object") return Object.entries(value).map(([name, inner]) => `${words(name).toLowerCase()} ${told(inner)}`).join(", ") || "none";
  if (typeof value !== "number") return String(value ?? "–");
  return value !== 0 && Math.abs(value) < 1e-3 ? String(Number(value.toPrecision(2))) : value.toLocaleString(undefined, { maximumFractionDigits: 4 });
}

function showFacts() {
  document.title = `${found.name} · dataset · ATFT`;
  at("short").textContent = `${found.name}@${found.version}`;
  at("name").textContent = `${found.name}, version ${found.version}`;
  facts(at("facts"), [
    ["Rows", count(found.num_rows)], ["Stocks", count(found.num_codes)],
    ["Trading days", `${count(found.num_days)}${found.days ? `, ${found.days[0]} to ${found.days[1]}` : ""}`],
    ["Horizons", found.horizons.map((horizon) => `${horizon} d`).join(", ")],
    ["Features", `${found.columns.length} across stocks, ${found.market_columns.length} market-wide`],
    ["Size", size(found.size_bytes)], ["Fingerprint", found.fingerprint], ["Made", moment(found.created_at)],
    ["Normalised", Object.entries(found.normalisation).map(([what, how]) => `${what}: ${how}`).join(". ")],
  ]);
}

function showProfile() {
  const { profile } = found;
  const warnings = profile.warnings || [];
  at("warnings").replaceChildren(...(warnings.length ? warnings : ["None."]).map((text) => element("li", {}, text)));
  at("warnings-title").textContent = warnings.length ? `Warnings (${warnings.length})` : "Warnings";
  const nulls = Object.entries(profile.null_share || {}).filter(([, share]) => share > 0).sort(([, a], [, b]) => b - a);
  facts(at("profile"), [
    ...Object.entries(profile).filter(([name]) => !TOLD.has(name)).map(([name, value]) => [words(name), name.endsWith("_share") && typeof value === "number" ? percent(value) : told(value)]),
    ["Missing values", nulls.slice(0, 40).map(([name, share]) => `${name} ${percent(share)}`).join(", ") + (nulls.length > 40 ? `, and ${nulls.length - 40} more columns` : "") || "none"],
  ]);
  showChecks();
  showCoverage();
}

function showCoverage() {
  const { coverage } = found.profile;
  at("coverage-section").hidden = !coverage?.period?.length;
  if (at("coverage-section").hidden) return;
  const matrix = { periods: coverage.period.map((day) => day.slice(0, 7)), groups: coverage.codes, share: coverage.share };
  draw(at("coverage"), matrix, `Coverage from ${matrix.periods[0]} to ${matrix.periods.at(-1)}: ${averages(matrix)}`);
  at("coverage-words").textContent = `On average: ${averages(matrix)}.`;
}

function showChecks() {
  const checks = found.profile.checks || [];
  at("checks").hidden = checks.length === 0;
  const limit = (one) => [[one.warn_above, "warns above"], [one.refuse_above, "refuses above"]].filter(([value]) => typeof value === "number").map(([value, what]) => `${what} ${told(value)}`).join(", ");
  table(at("checks"), ["Check", "#Found", "Limits", "Result"], checks.map((one) => [words(one.check), typeof one.value === "number" ? told(one.value) : "–", limit(one), one.message ? `${one.state}: ${one.message}` : one.state]));
}

function showLeaks() {
  const report = found.leak_report;
  const suspected = report.suspected || [], allowed = report.allowed || [], named = report.named_like_targets || [];
  at("leaks-words").textContent = [
    suspected.length ? `${suspected.length} features rank the next returns better than honest ones do${report.limit ? ` (|mean daily RankIC| above ${report.limit})` : ""}.` : `No feature is suspected${report.limit ? `: none has a mean daily RankIC beyond ±${report.limit} that chance does not explain` : ""}.`,
    named.length ? `Named like a target: ${named.join(", ")}.` : "", allowed.length ? `Allowed by whoever registered it: ${allowed.join(", ")}.` : "",
    report.num_days ? `Looked at on ${report.num_days} days.` : "",
  ].filter(Boolean).join(" ");
  const flagged = new Set(suspected.map((one) => one.feature));
  table(at("leaks"), ["Feature", "#Mean daily RankIC", "#Horizon", ""], (report.strongest || []).map((one) => [one.feature, number(one.rank_ic), one.horizon === null ? "next day" : `${one.horizon} d`, flagged.has(one.feature) ? (allowed.includes(one.feature) ? "allowed" : "suspected") : ""]));
}

function showFeatures() {
  const wanted = at("search").value.trim().toLowerCase();
  const all = [...found.columns.map((name) => [name, "across stocks"]), ...found.market_columns.map((name) => [name, "market-wide"])];
  const rows = all.map(([name, kind]) => [name, found.formulas[name] || "", kind, percent(found.profile.null_share?.[name])]).filter((row) => row.slice(0, 3).some((text) => text.toLowerCase().includes(wanted)));
  at("matches").textContent = `${rows.length} of ${all.length}`;
  table(at("features"), ["Feature", "Formula", "Kind", "#Missing in the file"], rows);
}

function cameFrom(origin) {
  if (origin.kind === "planted") return "planted";
  return origin.files.map((file) => `${file.name || "a file"}${file.size_bytes ? ` (${size(file.size_bytes)})` : ""}${file.role === "panel" ? "" : `, as ${file.role}`}`).join("; ");
}

function showVersions() {
  table(at("versions"), ["Version", "Made", "From", "#Jobs", "#Size", "Delete"], found.versions.map((one) => [
    one.version === found.version ? `${one.version} (this)` : element("a", { href: `/ui/datasets/${encodeURIComponent(found.name)}@${one.version}` }, one.version),
    lines(element("a", { href: `/ui/jobs/${one.job_id}` }, moment(one.created_at)), `by ${one.origin.by}${one.origin.versions.atft ? `, atft ${one.origin.versions.atft}` : ""}`),
    lines(`${one.origin.kind === "planted" ? "" : `${one.origin.kind}: `}${cameFrom(one.origin)}`, one.origin.source_sha256 ? `SHA-256 ${one.origin.source_sha256.slice(0, 16)}…` : ""),
    element("a", { href: one.jobs, "aria-label": `${one.num_jobs} jobs on version ${one.version}, as JSON` }, one.num_unfinished_jobs ? `${one.num_jobs} (${one.num_unfinished_jobs} unfinished)` : one.num_jobs),
    size(one.size_bytes), deleter(`${found.name}@${one.version}`, one.version),
  ]));
}

function lines(first, second) {
  return element("span", {}, first, element("span", { class: "quiet under" }, second));
}

function deleter(target, version) {
  const button = element("button", { type: "button", class: "danger", "aria-label": `Delete version ${version}` }, "Delete…");
  button.addEventListener("click", () => confirmDelete(target, `Version ${version} of “${found.name}” goes, with its cache.`));
  return button;
}

async function showJobs() {
  const page = await ask(`/jobs?${new URLSearchParams({ dataset: `${found.name}@${found.version}`, limit: "20" })}`);
  const jobs = page.items.filter((job) => job.kind !== "dataset");
  at("no-jobs").hidden = jobs.length > 0;
  at("jobs").hidden = jobs.length === 0;
  table(at("jobs"), ["Job", "State", "#val/rank_ic", "Made"], jobs.map((job) => [element("a", { href: job.links.page }, job.name || `${job.kind} ${job.id.slice(-8)}`), element("span", { class: `state ${job.status}` }, job.status), number(job.metrics["val/rank_ic"]), moment(job.created_at)]));
}

// -- deleting

let deleting = null;
function confirmDelete(target, text) {
  deleting = target;
  at("confirm-title").textContent = `Delete ${target}?`;
  at("confirm-words").textContent = `${text} Finished jobs keep their results, but cannot be run again without the data. This cannot be taken back.`;
  at("confirm-problem").hidden = true;
  at("confirm").showModal();
}

at("delete").addEventListener("click", () => confirmDelete(found.name, found.versions.length === 1 ? "The dataset goes, with its cache." : `All ${found.versions.length} versions go, with their caches.`));
at("really").addEventListener("click", async () => {
  at("really").disabled = true;
  try {
    const answer = await fetch(`/datasets/${deleting.split("@").map(encodeURIComponent).join("@")}`, { method: "DELETE", headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const left = deleting !== found.name && found.versions.length > 1;
    location.assign(left ? `/ui/datasets/${encodeURIComponent(found.name)}` : "/ui/datasets");
  } catch (error) {
    at("confirm-problem").textContent = error.message;
    at("confirm-problem").hidden = false;
  } finally {
    at("really").disabled = false;
  }
});

async function load() {
  found = await ask(api);
  showFacts(); showProfile(); showLeaks(); showFeatures(); showVersions();
  at("found").hidden = at("delete").hidden = false;
  showCoverage();
  at("links").replaceChildren(element("a", { href: api }, "this dataset as JSON"), element("a", { href: "/docs#/datasets/get_dataset" }, "API"));
  await showJobs();
}

at("search").addEventListener("input", showFeatures);
window.addEventListener("resize", () => { if (found) showCoverage(); });
at("name").textContent = at("short").textContent = ref;
const builds = await ask(`/jobs?${new URLSearchParams({ dataset: ref.split("@")[0], kind: "dataset", limit: "1" })}`).catch(() => ({ items: [] }));
const building = builds.items.find((job) => !FINISHED.has(job.state));
await load().catch((error) => { if (!building) notice(error); });
if (building) await follow(building.id, (job) => { if (job.state === "succeeded") load().catch(notice); }).catch(notice);
