// One job of any kind: its state, live; what it asked for and what ran; what it left. A study's pictures are study.js.
import { size } from "./amounts.js";
import { showEvidence } from "./evidence.js";
import { drawSplit } from "./split.js";
import { away, follow, seldom } from "./stream.js";
import { ask, duration, element, facts, FINISHED, moment, notice, once, progressText, table } from "./service.js";
import { showNumbers, showTraining } from "./training.js";

const id = document.getElementById("job").dataset.jobId;
const api = `/jobs/${encodeURIComponent(id)}`;
const at = (name) => document.getElementById(name);
const WANTED = ["val", "test/", "train", "step/", "time", "system"];  // one of several folds says train.1/…
const QUERY = WANTED.map((name) => `name=${name}`).join("&");
const LINES = 2000, TAIL = 300, POINTS = 300;
const TRAINS = new Set(["train", "trial", "pretrain", "ensemble"]);
const seen = new Map();  // the last event of each job, where the stream goes on
const said = new Set();  // lines that the stream may say again
let looking = 0, meanwhile = [];
let job = null, metrics = null, evidence = null, study = null, split = null, stop = null, opened = null;

function showJob() {
  const title = job.name || `${job.kind} on ${job.dataset || "nothing"}`;
  document.title = `${title} · ${job.status} · ATFT`;
  at("short").textContent = job.id;
  at("parent").replaceChildren(...(job.parent_id ? [element("a", { href: `/ui/jobs/${job.parent_id}` }, "study"), " / "] : []));
  at("name").textContent = title;
  if (at("state").textContent !== job.status) at("state").textContent = job.status;
  at("state").className = `state ${job.status}`;
  at("message").textContent = [job.reason?.replaceAll("_", " "), job.message, job.pending_reason].filter(Boolean).join(": ");
  showProgress(job.progress);
  showActions();
  const ran = job.started_at ? ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000 : null;
  facts(at("facts"), [
    ["Kind", job.kind], ["Made from", job.source_job_id && element("a", { href: `/ui/jobs/${job.source_job_id}` }, job.source_job_id)],
    ["Dataset", job.dataset && element("a", { href: `/ui/datasets/${encodeURIComponent(job.dataset)}` }, job.dataset)], ["Fingerprint", job.dataset_fingerprint],
    ["Spec digest", job.spec_digest], ["Queue", `${job.queue}, priority ${job.priority}`], ["Attempt", `${job.attempt} (given up after ${job.max_attempts} failures)`],
    ["Worker", job.worker], ["Tags", Object.entries(job.tags).map(([key, value]) => `${key}=${value}`).join(", ")],
    ["Made", moment(job.created_at)], ["Started", moment(job.started_at)], ["Finished", moment(job.finished_at)], ["Ran for", duration(ran)],
  ]);
  at("links").replaceChildren(...["self", "metrics", "evidence", "artifacts", "logs"].map((name) => element("a", { href: job.links[name] }, name === "self" ? "this job as JSON" : name)), element("a", { href: `${api}/tensorboard`, download: "" }, "TensorBoard file"), element("a", { href: "/docs" }, "API"));
}

function showActions() {
  const over = FINISHED.has(job.state), repeatable = ["train", "pretrain", "ensemble", "dataset"].includes(job.kind);
  at("cancel").hidden = over;
  at("cancel").disabled = job.wanted === "cancel";
  at("pause").hidden = over || job.state === "paused" || job.kind === "hpo";
  at("pause").disabled = job.wanted !== "run";
  at("resume").disabled = job.wanted === "run";
  at("resume").hidden = !(job.state === "paused" || (job.state === "running" && job.wanted === "pause"));
  at("retry").hidden = !(repeatable && ["failed", "cancelled"].includes(job.state));
  at("rerun").hidden = !(repeatable && job.state === "succeeded");
  at("promote").hidden = !(job.best && (job.kind === "hpo" || job.kind === "trial") && (over || job.kind === "hpo"));
  at("promote").textContent = job.kind === "trial" ? "Train in full" : "Train the best in full";
  at("clone").hidden = !["train", "trial", "hpo", "pretrain", "ensemble"].includes(job.kind);
  at("clone").href = `/ui/submit?from=${job.id}`;
}

function showProgress(progress) {
  const running = progress && job && !FINISHED.has(job.state);
  at("progress-box").hidden = !running;
  if (!running) return;
  at("progress").value = progress.ratio;
  at("progress-text").textContent = progressText(progress);
}

function showArtifacts({ items }) {
  at("artifacts-section").hidden = !items.length;
  table(at("artifacts"), ["File", "Size", "SHA-256", "Made"], items.map((file) => [element("a", { href: file.link }, file.name), size(file.size_bytes), element("code", {}, file.sha256.slice(0, 16)), moment(file.created_at)]));
}

function log(time, words) {
  const box = at("log");
  const bottom = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  box.append(`${new Date(time).toLocaleTimeString()}  ${words}\n`);
  while (box.childNodes.length > LINES) box.firstChild.remove();
  if (bottom) box.scrollTop = box.scrollHeight;
}

// Before a job has begun, its dataset's calendar tells the days; a job of another kind has none.
async function loadSplit() {
  if ((!job.spec?.split && !job.spec?.base?.split) || split?.source === "evidence" || (split && FINISHED.has(job.state))) return;
  split = await ask(`${api}/split`);
  showSplit();
}

function showSplit() {
  at("split-section").hidden = split === null;
  if (split === null) return;
  const found = drawSplit(at("split"), split.folds);
  at("split-legend").replaceChildren(...found.roles.map(({ role, word }) => element("span", {}, element("span", { class: `key days ${role}` }), word)));
  at("split-words").textContent = [split.kind.replaceAll("_", " "), `gaps of ${split.embargo_days} trading days`, split.source === "plan" && "as planned", found.said].filter(Boolean).join(", ");
}

// What was said before the page was opened; its newest lines.
async function loadLog() {
  const text = await ask(`${api}/logs?tail=${TAIL}`, {}, (answer) => answer.text());
  for (const [, time, words] of text.matchAll(/^(\S+) \[\d+\] (?:info )?(.*)$/gm)) { said.add(`${time} ${words.startsWith("state ") ? "" : words}`); log(time, words); }
}

async function look() {
  looking += 1;
  try {
    let found;
    [job, found] = await Promise.all([ask(api), ask(`${api}/metrics?${QUERY}&max_points=${POINTS}`)]);
    seen.set(id, Math.max(found.last_seq, seen.get(id) ?? 0));
    opened ??= loadLog().catch(notice);  // not before the place is known where the stream will go on
    showJob();
    if (TRAINS.has(job.kind)) {
      metrics = found;
      for (const { seq, body } of meanwhile) if (seq > found.last_seq) take(body);
      drawNumbers();
      evidence = await ask(`${api}/evidence`);
      showEvidence(job, evidence);
    }
    if (job.kind === "predict") showEvidence(job, await ask(`${api}/evidence`));
    if (job.kind === "hpo") {
      study ??= await import("./study.js");
      await study.show(job);
    }
    await loadSplit();
    if (FINISHED.has(job.state)) {
      stop?.();
      away(false);
      showArtifacts(await ask(`${api}/artifacts`));
    }
    notice(null);
  } catch (error) {
    if (!(error instanceof TypeError && stop)) notice(error);  // the stream says that the service is away
  } finally {
    looking -= 1;
    if (!looking) meanwhile = [];
  }
}

// An event has all that is new, so that nothing is asked for again until a series has grown too long to draw.
function take({ step, values, best, source }) {
  if (source) { metrics.baselines[source] = { ...metrics.baselines[source], ...values }; return; }
  Object.assign(metrics.latest, values);
  if (best) job.best = { ...job.best, epoch: step, value: values[job.best?.objective] ?? null, metrics: values };
  for (const [name, value] of Object.entries(values)) {
    if (!WANTED.some((prefix) => name.startsWith(prefix))) continue;
    const line = metrics.series[name] ??= { step: [], value: [] };
    if (step > (line.step.at(-1) ?? 0)) { line.step.push(step); line.value.push(value); }
    if (line.step.length > 2 * POINTS) reload();
  }
}

function drawNumbers() {
  if (!metrics) return;
  showNumbers(metrics, job);
  showTraining(metrics);
}

const reload = seldom(look, 1000), drawSoon = seldom(drawNumbers, 1000), showSoon = seldom(showJob, 10000);

function act(kind, data) {
  const own = data.job_id === job.id;
  if (data.seq) seen.set(data.job_id, data.seq);
  if (kind === "progress") { if (own) { job.progress = data.body; showProgress(data.body); showSoon(); } return; }
  if (kind === "log") { if (own && !said.has(`${data.time} ${data.body.message}`)) log(data.time, data.body.message); return; }
  if (kind === "metrics" && own && looking) meanwhile.push(data);  // the answer that is on its way may be older
  if (kind === "metrics" && own && metrics) {
    take(data.body);
    drawSoon();
    if (Object.keys(evidence).length) return;
  }
  if (kind === "state" && own && !said.has(`${data.time} `)) log(data.time, [`state ${data.body.state}`, data.body.wanted !== "run" && `wanted: ${data.body.wanted}`, data.body.reason, data.body.message].filter(Boolean).join(", "));
  reload();
}

function move(name, question) {
  at(name).addEventListener("click", async () => {
    if (question && !window.confirm(question)) return;
    at(name).disabled = true;
    try { await ask(`${api}/${name}`, { method: "POST" }); } catch (error) { notice(error); at(name).disabled = false; return; }
    await look();
  });
}

function again(name, body) {
  let key = once();  // the same while nobody has answered: a second click is the same wish
  at(name).addEventListener("click", async () => {
    at(name).disabled = true;
    const headers = { "Idempotency-Key": key, ...(body ? { "Content-Type": "application/json" } : {}) };
    try { window.location.assign((await ask(`${api}/${name}`, { method: "POST", headers, body })).links.page); } catch (error) { notice(error); if (!(error instanceof TypeError)) key = once(); at(name).disabled = false; }
  });
}

move("cancel", "Cancel this job?");
move("pause");
move("resume");
again("retry");
again("rerun");
again("promote", JSON.stringify({ as: "train" }));
window.addEventListener("resize", seldom(() => { drawNumbers(); showSplit(); study?.draw(); }, 200));
await look();
if (job) {
  // A study's running trials come along in the same stream.
  const followed = () => [job.id, ...(study?.running() ?? [])];
  const address = () => `/events?${new URLSearchParams([...followed().map((one) => ["job", one]), ["after", followed().map((one) => `${one}:${seen.get(one) ?? "newest"}`).join(",")]])}`;
  const start = () => { stop?.(); stop = follow(address, act, reload); };
  if (!FINISHED.has(job.state)) opened.finally(start);
  study?.whenOthersRun(() => { start(); reload(); });
} else document.getElementById("job").hidden = true;
