import { ask, element, FINISHED, moment, notice, number, progressText } from "./service.js";

const rows = document.getElementById("rows");
const more = document.getElementById("more");
const filters = document.getElementById("filters");
const compare = document.getElementById("compare");
const COMPARABLE = new Set(["train", "trial"]);
const PAGE = 50;
const chosen = new Set();
let shown = PAGE;
let drawn = "";

async function load() {
  const query = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
  const jobs = [];
  let cursor = null;
  do {
    query.set("limit", String(Math.min(shown - jobs.length, 200)));
    if (cursor) query.set("cursor", cursor);
    const page = await ask(`/jobs?${query}`);
    jobs.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && jobs.length < shown);
  return { jobs, cursor };
}

function row(job) {
  const title = job.name || `${job.kind} ${job.id.slice(-8)}`;
  const running = job.progress && !FINISHED.has(job.state);
  return element(
    "tr", {},
    element("td", {}, tick(job, title), element("a", { href: job.links.page }, title), element("span", { class: "quiet" }, `${job.kind} · ${job.queue}`)),
    element("td", {}, element("span", { class: `state ${job.status}` }, job.status), reason(job)),
    element("td", {}, running ? bar(job.progress) : null, running ? element("span", { class: "quiet" }, progressText({ ...job.progress, steps: 0, samples_per_second: 0 })) : null),
    element("td", { class: "number" }, ["train", "trial"].includes(job.kind) ? number(job.metrics["val/rank_ic"]) : ""),
    element("td", {}, job.dataset || ""),
    element("td", {}, moment(job.created_at)),
  );
}

function tick(job, title) {
  if (!COMPARABLE.has(job.kind)) return null;
  const box = element("input", { type: "checkbox", value: job.id, "aria-label": `compare ${title}` });
  box.checked = chosen.has(job.id);
  box.addEventListener("change", () => { if (box.checked) chosen.add(job.id); else chosen.delete(job.id); showChosen(); });
  return box;
}

function showChosen() {
  compare.disabled = chosen.size < 2;
  compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
}

function reason(job) {
  const words = job.state === "queued" ? job.pending_reason : job.reason;
  return words ? element("span", { class: "quiet" }, words.replaceAll("_", " ")) : null;
}

function bar(progress) {
  return element("progress", { max: "1", value: String(progress.ratio), "aria-label": "progress" });
}

async function refresh() {
  try {
    const [{ jobs, cursor }, workers] = await Promise.all([load(), ask("/workers")]);
    const text = JSON.stringify(jobs);
    if (text !== drawn) {
      const focused = ["href", "value"].map((name) => [name, document.activeElement?.getAttribute(name)]).find(([, value]) => value);
      rows.replaceChildren(...jobs.map(row));
      if (focused) rows.querySelector(`[${focused[0]}="${CSS.escape(focused[1])}"]`)?.focus();
      drawn = text;
    }
    document.getElementById("empty").hidden = jobs.length > 0;
    more.hidden = !cursor;
    const live = workers.items.filter((worker) => worker.live);
    document.getElementById("workers").textContent = `${live.length} live ${live.length === 1 ? "worker" : "workers"}, ${live.filter((worker) => worker.busy_with).length} busy`;
    notice(null);
  } catch (error) {
    notice(error);
  }
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => { shown = PAGE; refresh(); });
compare.addEventListener("click", () => location.assign(`/ui/compare?${new URLSearchParams([...chosen].map((id) => ["job", id]))}`));
more.addEventListener("click", () => { shown += PAGE; refresh(); });
await refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
