// The list of jobs: rows by id, the newest page polled, and one event stream for unfinished jobs.
import { bindCompareButton, selectionCheckbox } from "./compare-selection.js";
import { kindOf } from "./page-kinds.js";
import { METRICS } from "./page-metrics.js";
import { showOffline, followEvents, throttle } from "./stream.js";
import { callApi, element, FINISHED, formatTime, showError, formatNumber, progressText } from "./service.js";

const byId = (name) => document.getElementById(name);
const filters = byId("filters"),
  body = byId("rows"),
  more = byId("more");
const METRIC = METRICS.leading.name;
const PAGE_SIZE = 50,
  MAX_FOLLOWED = 50,
  REFRESH_SECONDS = 5;
const rows = new Map(); // id to { job, row, text }
let newest = new Set(); // ids on the newest page, which each refresh loads again
let cursor = null,
  stop = null,
  followedIds = "",
  olderLoaded = false,
  latestRequest = 0;

function query(extra = {}) {
  const chosen = [...new FormData(filters)].filter(([, value]) => value);
  return `/jobs?${new URLSearchParams([...chosen, ["limit", PAGE_SIZE], ...Object.entries(extra)])}`;
}

const bestOfStudy = (job) => (job.best?.objective === METRIC ? { [METRIC]: job.best.value } : {});

function cells(job) {
  const title = job.name || `${job.kind} ${job.id.slice(-8)}`,
    running = job.progress && !FINISHED.has(job.state);
  const message = job.state === "queued" ? job.pending_reason : job.reason === job.state ? null : job.reason;
  const isStudy = kindOf(job).view === "study",
    isComparable = job.actions.includes("compare");
  const best = isStudy ? bestOfStudy(job) : job.best?.metrics;
  const value = isComparable || isStudy ? (best ?? job.metrics)[METRIC] : undefined;
  const tags = Object.entries(job.tags)
    .map(([key, one]) => `${key}=${one}`)
    .join(", ");
  return [
    element(
      "th",
      { scope: "row" },
      isComparable ? selectionCheckbox(job.id, title) : null,
      element("a", { href: job.links.page }, title),
      element("span", { class: "quiet" }, [job.kind, job.queue, tags].filter(Boolean).join(" · ")),
    ),
    element(
      "td",
      {},
      element("span", { class: `state ${job.status}` }, job.status),
      message ? element("span", { class: "quiet" }, message.replaceAll("_", " ")) : null,
    ),
    element(
      "td",
      {},
      running
        ? element("progress", { max: "1", value: String(job.progress.ratio), "aria-label": `progress of ${title}` })
        : null,
      running
        ? element(
            "span",
            { class: "quiet" },
            progressText({ ...job.progress, ...(isStudy ? {} : { steps: 0 }), samples_per_second: 0 }),
          )
        : null,
    ),
    element("td", { class: "number" }, value === undefined ? "" : formatNumber(value)),
    element(
      "td",
      {},
      job.dataset ? element("a", { href: `/ui/datasets/${encodeURIComponent(job.dataset)}` }, job.dataset) : "",
    ),
    element("td", {}, formatTime(job.created_at)),
  ];
}

// Adds or updates a job's row; the focused element keeps the focus.
function upsertRow(job) {
  const text = JSON.stringify(job),
    shown = rows.get(job.id);
  if (shown?.text === text) return shown.row;
  const row = shown?.row ?? element("tr", { "data-id": job.id });
  const focused = row.contains(document.activeElement) ? document.activeElement.tagName : null;
  row.replaceChildren(...cells(job));
  if (focused) row.querySelector(focused)?.focus();
  rows.set(job.id, { job, row, text });
  return row;
}

function removeRow(id) {
  rows.get(id).row.remove();
  rows.delete(id);
}

// Merges the newest page into the list. Older rows stay only if the reader has loaded them, so that the list does not
// grow with every new job, and only if there cannot be jobs between them that were never loaded.
function mergePage(page) {
  const pageIds = (newest = new Set(page.items.map((job) => job.id))),
    last = page.items.at(-1);
  if (!page.next_cursor || !page.items.some((job) => rows.has(job.id))) olderLoaded = false;
  for (const [id, { job }] of rows)
    if (!pageIds.has(id) && (!olderLoaded || job.created_at > last.created_at)) removeRow(id);
  let next = body.firstChild;
  for (const job of page.items) {
    const row = upsertRow(job);
    if (row === next) next = next.nextSibling;
    else body.insertBefore(row, next);
  }
  if (!olderLoaded) cursor = page.next_cursor;
}

async function refresh() {
  const request = (latestRequest += 1);
  try {
    const [page, workers] = await Promise.all([callApi(query()), callApi("/workers")]);
    if (request !== latestRequest) return; // the filters have changed meanwhile
    mergePage(page);
    const live = workers.items.filter((worker) => worker.live);
    const busy = live.filter((worker) => worker.busy_with);
    const message = `${live.length} live ${live.length === 1 ? "worker" : "workers"}, ${busy.length} busy`;
    if (byId("workers").textContent !== message) byId("workers").textContent = message;
    updateSummary();
    showError(null);
    showOffline(false);
  } catch (error) {
    if (error instanceof TypeError) showOffline(true);
    else showError(error);
  }
}

function updateSummary() {
  byId("empty").hidden = rows.size > 0;
  byId("count").textContent =
    `${rows.size.toLocaleString()}${cursor ? " newest" : ""} ${rows.size === 1 ? "job" : "jobs"} shown`;
  more.hidden = !cursor;
  const unfinished = [...rows.values()].map(({ job }) => job).filter((job) => !FINISHED.has(job.state));
  const ids = [
    ...unfinished.filter((job) => job.state === "running"),
    ...unfinished.filter((job) => job.state !== "running"),
  ]
    .slice(0, MAX_FOLLOWED)
    .map((job) => job.id)
    .sort();
  if (ids.join() === followedIds) return;
  followedIds = ids.join();
  stop?.();
  const address = `/events?${new URLSearchParams([...ids.map((id) => ["job", id]), ["after", "newest"]])}`;
  stop = ids.length ? followEvents(() => address, onEvent, onReconnect) : null;
}

const refreshSoon = throttle(refresh, 1000);

function onEvent(kind, { job_id: id, body: changes }) {
  const shown = rows.get(id);
  if (!shown) return;
  if (kind === "progress") {
    upsertRow({ ...shown.job, progress: { ...shown.job.progress, ...changes } });
    return;
  }
  if (kind === "log") return;
  if (newest.has(id)) refreshSoon();
  else if (kind !== "metrics") callApi(`/jobs/${id}`).then(upsertRow, showError);
}

// After a reconnect: jobs that are not on the newest page may have changed in the meantime.
function onReconnect() {
  refreshSoon();
  for (const id of followedIds.split(","))
    if (rows.has(id) && !newest.has(id)) callApi(`/jobs/${id}`).then(upsertRow, showError);
}

async function loadOlder() {
  more.disabled = true;
  olderLoaded = true; // before the response, so that a refresh meanwhile moves neither the cursor nor the last row
  try {
    const page = await callApi(query({ cursor }));
    cursor = page.next_cursor;
    body.append(...page.items.filter((job) => !rows.has(job.id)).map(upsertRow));
    updateSummary();
  } catch (error) {
    showError(error);
  }
  more.disabled = false;
}

function applyFilters() {
  const chosen = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  history.replaceState(null, "", chosen.size ? `/?${chosen}` : "/");
  for (const id of [...rows.keys()]) removeRow(id);
  cursor = null;
  olderLoaded = false;
  return refresh();
}

for (const [name, value] of new URLSearchParams(window.location.search))
  if (filters.elements[name]) filters.elements[name].value = value;
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", throttle(applyFilters, 250));
bindCompareButton(byId("compare"));
more.addEventListener("click", loadOlder);
callApi("/datasets?limit=200").then(
  ({ items }) =>
    byId("datasets").append(
      ...[...new Set(items.map((one) => one.name))].map((name) => element("option", { value: name })),
    ),
  showError,
);
await refresh();
setInterval(() => {
  if (!document.hidden) refresh();
}, REFRESH_SECONDS * 1000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
