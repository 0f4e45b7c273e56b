// The list of jobs: rows kept by id, the newest page looked at now and then, and one stream for what still moves.
import { bind, tick } from "./basket.js";
import { away, follow, seldom } from "./stream.js";
import { ask, element, FINISHED, moment, notice, number, progressText } from "./service.js";

const at = (name) => document.getElementById(name);
const filters = at("filters"), body = at("rows"), more = at("more");
const COMPARABLE = new Set(["train", "trial", "ensemble"]);
const METRIC = "val/rank_ic";
const PAGE = 50, FOLLOWED = 50, SECONDS = 5;
const rows = new Map();  // id to { job, row, text }
let newest = new Set();  // what a refresh brings anew
let cursor = null, stop = null, followed = "", asked = 0;

function query(extra = {}) {
  return `/jobs?${new URLSearchParams([...[...new FormData(filters)].filter(([, value]) => value), ["limit", PAGE], ...Object.entries(extra)])}`;
}

function cells(job) {
  const title = job.name || `${job.kind} ${job.id.slice(-8)}`, running = job.progress && !FINISHED.has(job.state);
  const words = job.state === "queued" ? job.pending_reason : job.reason;
  const best = job.kind !== "hpo" ? job.best?.metrics : job.spec.objective?.metric === METRIC ? { [METRIC]: job.best?.value } : {};
  const value = COMPARABLE.has(job.kind) || job.kind === "hpo" ? (best ?? job.metrics)[METRIC] : undefined;
  const tags = Object.entries(job.tags).map(([key, one]) => `${key}=${one}`).join(", ");
  return [
    element("th", { scope: "row" }, COMPARABLE.has(job.kind) ? tick(job.id, title) : null, element("a", { href: job.links.page }, title), element("span", { class: "quiet" }, [job.kind, job.queue, tags].filter(Boolean).join(" · "))),
    element("td", {}, element("span", { class: `state ${job.status}` }, job.status), words ? element("span", { class: "quiet" }, words.replaceAll("_", " ")) : null),
    element("td", {}, running ? element("progress", { max: "1", value: String(job.progress.ratio), "aria-label": `progress of ${title}` }) : null, running ? element("span", { class: "quiet" }, progressText({ ...job.progress, ...(job.kind === "hpo" ? {} : { steps: 0 }), samples_per_second: 0 })) : null),
    element("td", { class: "number" }, value === undefined ? "" : number(value)),
    element("td", {}, job.dataset ? element("a", { href: `/ui/datasets/${encodeURIComponent(job.dataset)}` }, job.dataset) : ""),
    element("td", {}, moment(job.created_at)),
  ];
}

// Draws a job's row if anything about it has changed; what has the focus keeps it.
function put(job) {
  const text = JSON.stringify(job), known = rows.get(job.id);
  if (known?.text === text) return known.row;
  const row = known?.row ?? element("tr", { "data-id": job.id });
  const focused = row.contains(document.activeElement) ? document.activeElement.tagName : null;
  row.replaceChildren(...cells(job));
  if (focused) row.querySelector(focused)?.focus();
  rows.set(job.id, { job, row, text });
  return row;
}

function drop(id) {
  rows.get(id).row.remove();
  rows.delete(id);
}

// The newest page takes the place of what was there of its time; older rows stay, unless jobs between the two are unknown.
function merge(page) {
  const fresh = newest = new Set(page.items.map((job) => job.id)), last = page.items.at(-1);
  if (page.next_cursor && !page.items.some((job) => rows.has(job.id))) for (const id of [...rows.keys()]) drop(id);
  for (const [id, { job }] of rows) if (!fresh.has(id) && (!page.next_cursor || job.created_at > last.created_at)) drop(id);
  let place = body.firstChild;
  for (const job of page.items) {
    const row = put(job);
    if (row === place) place = place.nextSibling; else body.insertBefore(row, place);
  }
  if (rows.size <= PAGE) cursor = page.next_cursor;
}

async function refresh() {
  const mine = asked += 1;
  try {
    const [page, workers] = await Promise.all([ask(query()), ask("/workers")]);
    if (mine !== asked) return;  // the filters have changed meanwhile
    merge(page);
    const live = workers.items.filter((worker) => worker.live);
    const words = `${live.length} live ${live.length === 1 ? "worker" : "workers"}, ${live.filter((worker) => worker.busy_with).length} busy`;
    if (at("workers").textContent !== words) at("workers").textContent = words;
    settle();
    notice(null);
    away(false);
  } catch (error) {
    if (error instanceof TypeError) away(true); else notice(error);
  }
}

function settle() {
  at("empty").hidden = rows.size > 0;
  at("count").textContent = `${rows.size.toLocaleString()}${cursor ? " newest" : ""} ${rows.size === 1 ? "job" : "jobs"} shown`;
  more.hidden = !cursor;
  const moving = [...rows.values()].map(({ job }) => job).filter((job) => !FINISHED.has(job.state));
  const ids = [...moving.filter((job) => job.state === "running"), ...moving.filter((job) => job.state !== "running")].slice(0, FOLLOWED).map((job) => job.id).sort();
  if (ids.join() === followed) return;
  followed = ids.join();
  stop?.();
  const address = `/events?${new URLSearchParams([...ids.map((id) => ["job", id]), ["after", "newest"]])}`;
  stop = ids.length ? follow(() => address, act, back) : null;
}

const soon = seldom(refresh, 1000);

function act(kind, { job_id: id, body: news }) {
  const known = rows.get(id);
  if (!known) return;
  if (kind === "progress") { put({ ...known.job, progress: { ...known.job.progress, ...news } }); return; }
  if (kind === "log") return;
  if (newest.has(id)) soon();
  else if (kind !== "metrics") ask(`/jobs/${id}`).then(put, notice);
}

// After a stream that was cut: what it followed beyond the newest page may have moved meanwhile.
function back() {
  soon();
  for (const id of followed.split(",")) if (rows.has(id) && !newest.has(id)) ask(`/jobs/${id}`).then(put, notice);
}

async function older() {
  more.disabled = true;
  try {
    const page = await ask(query({ cursor }));
    cursor = page.next_cursor;
    body.append(...page.items.filter((job) => !rows.has(job.id)).map(put));
    settle();
  } catch (error) { notice(error); }
  more.disabled = false;
}

function restart() {
  const chosen = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  history.replaceState(null, "", chosen.size ? `/?${chosen}` : "/");
  for (const id of [...rows.keys()]) drop(id);
  cursor = null;
  return refresh();
}

for (const [name, value] of new URLSearchParams(window.location.search)) if (filters.elements[name]) filters.elements[name].value = value;
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", seldom(restart, 250));
bind(at("compare"));
more.addEventListener("click", older);
ask("/datasets?limit=200").then(({ items }) => at("datasets").append(...[...new Set(items.map((one) => one.name))].map((name) => element("option", { value: name }))), notice);
await refresh();
setInterval(() => { if (!document.hidden) refresh(); }, SECONDS * 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
