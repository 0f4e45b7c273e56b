import { draw } from "./curve.js";
import { drawSplit } from "./split.js";
import { ask, duration, element, FINISHED, moment, notice, number, progressText } from "./service.js";

const id = document.getElementById("job").dataset.jobId;
const api = `/jobs/${encodeURIComponent(id)}`;
const at = (name) => document.getElementById(name);
const CURVE = "val/rank_ic";
const ROWS = ["rank_ic", "ic", "rank_icir", "icir", "ic_t", "hit_rate", "sharpe_ann", "sharpe_net_ann", "turnover", "max_drawdown", "spread", "loss", "pred_std_ratio", "oracle_share_ratio", "num_days"];
let job = null;
let numbers = null;
let split = null;
let logged = 0;

function facts(list, pairs) {
  list.replaceChildren(...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function showJob() {
  document.title = `${job.name || job.kind} · ${job.status} · ATFT`;
  at("short").textContent = job.id;
  at("name").textContent = job.name || `${job.kind} on ${job.dataset || "nothing"}`;
  at("state").textContent = job.status;
  at("state").className = `state ${job.status}`;
  at("message").textContent = [job.reason?.replaceAll("_", " "), job.message, job.pending_reason].filter(Boolean).join(": ");
  at("cancel").hidden = FINISHED.has(job.state);
  at("cancel").disabled = job.wanted === "cancel";
  const repeatable = ["train", "dataset"].includes(job.kind);
  at("pause").hidden = FINISHED.has(job.state) || job.state === "paused" || job.kind === "hpo";
  at("pause").disabled = job.wanted !== "run";
  at("resume").hidden = !(job.state === "paused" || (job.state === "running" && job.wanted === "pause"));
  at("retry").hidden = !(repeatable && ["failed", "cancelled"].includes(job.state));
  at("rerun").hidden = !(repeatable && job.state === "succeeded");
  showProgress(job.progress);
  const ran = job.started_at ? ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000 : null;
  facts(at("facts"), [
    ["Kind", job.kind], ["Made from", job.source_job_id && element("a", { href: `/ui/jobs/${job.source_job_id}` }, job.source_job_id)], ["Dataset", job.dataset], ["Fingerprint", job.dataset_fingerprint],
    ["Spec digest", job.spec_digest], ["Queue", `${job.queue}, priority ${job.priority}`], ["Attempt", `${job.attempt} (given up after ${job.max_attempts} failures)`],
    ["Worker", job.worker], ["Tags", Object.entries(job.tags).map(([key, value]) => `${key}=${value}`).join(", ")],
    ["Made", moment(job.created_at)], ["Started", moment(job.started_at)], ["Finished", moment(job.finished_at)], ["Ran for", duration(ran)],
  ]);
  at("links").replaceChildren(...["self", "metrics", "evidence", "artifacts", "logs"].map((name) => element("a", { href: job.links[name] }, name === "self" ? "this job as JSON" : name)), element("a", { href: "/docs" }, "API"));
}

function showProgress(progress) {
  const running = progress && job && !FINISHED.has(job.state);
  at("progress-box").hidden = !running;
  if (!running) return;
  at("progress").value = progress.ratio;
  at("progress-text").textContent = progressText(progress);
}

function columns(names) {
  const horizons = [...new Set(names.map((name) => name.split("@")[1]).filter(Boolean))];
  return ["", ...horizons.sort((a, b) => parseInt(a, 10) - parseInt(b, 10))];
}

/* One line a horizon and their mean; of several folds, whose mean has no epochs, one line a fold. */
function lines(series) {
  const folds = Object.entries(series).filter(([name]) => /^val\.\d+\/rank_ic$/.test(name))
    .map(([name, points]) => ({ name: `fold ${name.slice(4).split("/")[0]}`, ...points }));
  const horizons = Object.entries(series).filter(([name]) => name.startsWith(`${CURVE}@`) || name === CURVE)
    .map(([name, points]) => ({ name: name === CURVE ? "mean" : name.split("@")[1], ...points }));
  const place = (line) => parseInt(line.name.replace("fold ", ""), 10) || 0;
  return (folds.length ? folds : horizons).sort((a, b) => place(a) - place(b));
}

function showSplit() {
  at("split-section").hidden = split === null;
  if (split === null) return;
  const found = drawSplit(at("split"), split.folds);
  at("split-legend").replaceChildren(...found.roles.map(({ role, word }) => element("span", {}, element("span", { class: `key days ${role}` }), word)));
  at("split-words").textContent = [split.kind.replaceAll("_", " "), `gaps of ${split.embargo_days} trading days`, split.source === "plan" && "as planned", found.said].filter(Boolean).join(", ");
}

/* Before a job has begun, its dataset's calendar tells the days; a job of another kind has none. */
async function loadSplit() {
  if (!job?.spec?.split && !job?.spec?.base?.split || split?.source === "evidence") return;
  split = await ask(`${api}/split`);
  showSplit();
}

function showNumbers(metrics) {
  numbers = metrics;
  const line = lines(metrics.series);
  at("curve-section").hidden = !line.some((series) => series.value.some((value) => value !== null));
  draw(at("curve"), line, job?.spec?.trainer?.max_epochs || job?.progress?.epochs, "Validation RankIC by epoch, one line for each horizon or fold");
  at("legend").replaceChildren(...line.map((series, i) => element("span", {}, element("span", { class: `key c${i % 6}` }), series.name, ` ${number(series.value.at(-1))}`)));

  const splits = ["test", "val"].filter((split) => Object.keys(metrics.latest).some((name) => name.startsWith(`${split}/`)));
  at("numbers-section").hidden = splits.length === 0;
  const head = columns(Object.keys(metrics.latest).filter((name) => splits.some((split) => name.startsWith(`${split}/`))));
  const body = splits.flatMap((split) => sources(split, metrics).flatMap(([source, values]) => ROWS
    .filter((metric) => head.some((h) => key(split, metric, h) in values))
    .filter((metric) => source === "model" || metric === "rank_ic")
    .map((metric) => element("tr", {}, element("th", { scope: "row" }, `${split} ${metric}`, source === "model" ? null : element("span", { class: "quiet" }, ` ${source}`)),
      ...head.map((h) => element("td", { class: "number" }, key(split, metric, h) in values ? number(values[key(split, metric, h)], metric === "num_days" ? 0 : 4) : ""))))));
  const titles = head.map((h) => element("th", { scope: "col", class: "number" }, h || "mean"));
  at("numbers").replaceChildren(element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Metric"), ...titles)), element("tbody", {}, ...body));
}

function sources(split, metrics) {
  const has = (values) => Object.keys(values).some((name) => name.startsWith(`${split}/`));
  return [["model", metrics.latest], ...Object.entries(metrics.baselines).filter(([, values]) => has(values))];
}

function key(split, metric, horizon) {
  return horizon ? `${split}/${metric}@${horizon}` : `${split}/${metric}`;
}

function showEvidence(evidence) {
  at("evidence-section").hidden = Object.keys(evidence).length === 0;
  const { optimizer, scheduler, threads, data, versions } = evidence;
  facts(at("evidence"), [
    ["Optimizer", optimizer && `${optimizer.class} ${optimizer.version || ""} (state: ${(optimizer.state_keys || []).join(", ")})`],
    ["Learning rate", scheduler && `${scheduler.class}: ${(scheduler.lr_by_epoch || []).slice(0, 12).map((rate) => Number(rate).toExponential(2)).join(", ")}`],
    ["Threads", threads && `limit ${threads.limit}, torch ${threads.torch_num_threads}, peak ${threads.os_threads_peak ?? "–"}`],
    ["Device", [evidence.device, evidence.device_name, evidence.precision].filter(Boolean).join(", ")],
    ["Data", data && `${data.num_rows?.toLocaleString()} rows, ${data.num_features} features, ${data.train_days?.length} training, ${data.val_days?.length} validation, ${data.test_days?.length} test days, gap ${data.embargo_days}`],
    ["Versions", versions && Object.entries(versions).map(([name, value]) => `${name} ${value}`).join(", ")],
  ]);
}

function log(time, words) {
  const box = at("log");
  const bottom = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  box.append(`${new Date(time).toLocaleTimeString()}  ${words}\n`);
  if (bottom) box.scrollTop = box.scrollHeight;
}

let loading = null;
function reload() {
  loading ??= Promise.all([ask(api), ask(`${api}/metrics?name=val&name=test/`), ask(`${api}/evidence`)])
    .then(([newest, metrics, evidence]) => { job = newest; showJob(); showNumbers(metrics); showEvidence(evidence); notice(null); return loadSplit(); })
    .catch(notice)
    .finally(() => { loading = null; });
  return loading;
}

function follow() {
  const source = new EventSource(`${api}/events?after=${logged}`);
  const on = (kind, act) => source.addEventListener(kind, (event) => { const data = JSON.parse(event.data); if (data.seq) logged = data.seq; act(data); });
  on("state", (data) => { log(data.time, [`state ${data.body.state}`, data.body.wanted !== "run" && `wanted: ${data.body.wanted}`, data.body.reason, data.body.message].filter(Boolean).join(", ")); reload(); });
  on("metrics", () => reload());
  on("log", (data) => log(data.time, data.body.message));
  on("progress", (data) => { if (job) job.progress = data.body; showProgress(data.body); });
  on("end", () => { source.close(); reload(); });
}

function move(name, question) {
  at(name).addEventListener("click", async () => {
    if (question && !window.confirm(question)) return;
    at(name).disabled = true;
    try { await ask(`${api}/${name}`, { method: "POST" }); await reload(); } catch (error) { notice(error); }
    at(name).disabled = false;
  });
}

function again(name) {
  at(name).addEventListener("click", async () => {
    at(name).disabled = true;
    try {
      const made = await ask(`${api}/${name}`, { method: "POST", headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` } });
      window.location.assign(made.links.page);
    } catch (error) { notice(error); at(name).disabled = false; }
  });
}

move("cancel", "Cancel this job?");
move("pause");
move("resume");
again("retry");
again("rerun");

window.addEventListener("resize", () => { if (numbers) showNumbers(numbers); showSplit(); });
await reload();
if (job) follow();
else document.getElementById("job").hidden = true;
