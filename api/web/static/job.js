// The page of one job of any kind: its live state, metrics, evidence, files and log. A study's plots are in study.js.
import { size } from "./format.js";
import { showEvidence } from "./evidence.js";
import { kindOf } from "./page-kinds.js";
import { applyMetrics, METRICS_QUERY } from "./metrics.js";
import { drawSplit } from "./split.js";
import { showOffline, followEvents, throttle } from "./stream.js";
import {
  callApi,
  formatDuration,
  element,
  fillFacts,
  FINISHED,
  formatTime,
  showError,
  newIdempotencyKey,
  progressText,
  fillTable,
} from "./service.js";
import { showNumbers, showTraining } from "./training.js";

const id = document.getElementById("job").dataset.jobId;
const api = `/jobs/${encodeURIComponent(id)}`;
const byId = (name) => document.getElementById(name);
const buttons = document.querySelectorAll("[data-action]");
const MAX_LOG_LINES = 2000,
  LOG_TAIL = 300,
  REFRESH_SECONDS = 5;
const lastSeqByJob = new Map(); // job id to its last event's number, from which the stream resumes
const loggedLines = new Set(); // lines from the log file, which the stream may repeat
let refreshing = 0,
  pendingMetrics = [];
let job = null,
  metrics = null,
  evidence = {},
  study = null,
  split = null,
  stop = null,
  logLoaded = null;

function showJob() {
  const title = job.name || `${job.kind} on ${job.dataset || "nothing"}`;
  document.title = `${title} · ${job.status} · ATFT`;
  byId("short").textContent = job.id;
  byId("parent").replaceChildren(
    ...(job.parent_id ? [element("a", { href: `/ui/jobs/${job.parent_id}` }, "study"), " / "] : []),
  );
  byId("name").textContent = title;
  if (byId("state").textContent !== job.status) byId("state").textContent = job.status;
  byId("state").className = `state ${job.status}`;
  byId("message").textContent = [job.reason?.replaceAll("_", " "), job.message, job.pending_reason]
    .filter(Boolean)
    .join(": ");
  showProgress(job.progress);
  showActions();
  const ran = job.started_at
    ? ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000
    : null;
  fillFacts(byId("facts"), [
    ["Kind", job.kind],
    [
      "Verdict",
      job.verdict &&
        element(
          "span",
          {},
          `${job.verdict} `,
          job.baselines_job_id && element("a", { href: `/ui/jobs/${job.baselines_job_id}` }, "baselines"),
        ),
    ],
    ["Source job", job.source_job_id && element("a", { href: `/ui/jobs/${job.source_job_id}` }, job.source_job_id)],
    ["Dataset", job.dataset && element("a", { href: `/ui/datasets/${encodeURIComponent(job.dataset)}` }, job.dataset)],
    ["Fingerprint", job.dataset_fingerprint],
    ["Spec digest", job.spec_digest],
    ["Queue", `${job.queue}, priority ${job.priority}`],
    ["Attempt", `${job.attempt} (at most ${job.max_attempts} failures)`],
    ["Worker", job.worker],
    [
      "Tags",
      Object.entries(job.tags)
        .map(([key, value]) => `${key}=${value}`)
        .join(", "),
    ],
    ["Created", formatTime(job.created_at)],
    ["Started", formatTime(job.started_at)],
    ["Finished", formatTime(job.finished_at)],
    ["Ran for", formatDuration(ran)],
  ]);
  byId("links").replaceChildren(
    ...["self", "metrics", "evidence", "artifacts", "logs"].map((name) =>
      element("a", { href: job.links[name] }, name === "self" ? "this job as JSON" : name),
    ),
    element("a", { href: `${api}/tensorboard`, download: "" }, "TensorBoard file"),
    element("a", { href: "/docs" }, "API"),
  );
}

function showActions() {
  const { view, form } = kindOf(job);
  for (const button of buttons) button.hidden = !job.actions.includes(button.dataset.action);
  byId("promote").hidden ||= view !== "study" && !job.parent_id; // a training outside a study is in full already
  byId("promote").textContent = view === "study" ? "Train the best in full" : "Train in full";
  byId("clone").hidden = !form;
  byId("clone").href = `/ui/submit?from=${job.id}`;
}

function showProgress(progress) {
  const running = progress && job && !FINISHED.has(job.state);
  byId("progress-box").hidden = !running;
  if (!running) return;
  byId("progress").value = progress.ratio;
  byId("progress-text").textContent = progressText(progress);
}

function showArtifacts({ items }) {
  byId("artifacts-section").hidden = !items.length;
  fillTable(
    byId("artifacts"),
    ["File", "Size", "SHA-256", "Created"],
    items.map((file) => [
      element("a", { href: file.link }, file.name),
      size(file.size_bytes),
      element("code", {}, file.sha256.slice(0, 16)),
      formatTime(file.created_at),
    ]),
  );
}

function log(time, text) {
  const box = byId("log");
  const bottom = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  box.append(`${new Date(time).toLocaleTimeString()}  ${text}\n`);
  while (box.childNodes.length > MAX_LOG_LINES) box.firstChild.remove();
  if (bottom) box.scrollTop = box.scrollHeight;
}

// Before a job starts, its split is planned by the dataset's calendar; other kinds of job have none.
async function loadSplit() {
  if (
    (!job.spec?.split && !job.spec?.base?.split) ||
    split?.source === "evidence" ||
    (split && FINISHED.has(job.state))
  )
    return;
  split = await callApi(`${api}/split`);
  showSplit();
}

function showSplit() {
  byId("split-section").hidden = split === null;
  if (split === null) return;
  const found = drawSplit(byId("split"), split.folds);
  byId("split-legend").replaceChildren(
    ...found.roles.map(({ role, label }) => element("span", {}, element("span", { class: `key days ${role}` }), label)),
  );
  byId("split-text").textContent = [
    split.kind.replaceAll("_", " "),
    `gaps of ${split.embargo_days} trading days`,
    split.source === "plan" && "planned",
    found.note,
  ]
    .filter(Boolean)
    .join(", ");
}

// Shows the newest log lines from before the page was opened.
async function loadLog() {
  const lines = await callApi(`${api}/logs?tail=${LOG_TAIL}`, {}, (response) => response.text());
  for (const [, time, text] of lines.matchAll(/^(\S+) \[\d+\] (?:info )?(.*)$/gm)) {
    loggedLines.add(`${time} ${text.startsWith("state ") ? "" : text}`);
    log(time, text);
  }
}

async function refresh() {
  refreshing += 1;
  try {
    let found;
    [job, found] = await Promise.all([callApi(api), callApi(`${api}/metrics?${METRICS_QUERY}`)]);
    lastSeqByJob.set(id, Math.max(found.last_seq, lastSeqByJob.get(id) ?? 0));
    logLoaded ??= loadLog().catch(showError); // only once the stream's start position is known
    showJob();
    const { view } = kindOf(job);
    if (view === "training") {
      metrics = found;
      for (const { seq, body } of pendingMetrics) if (seq > found.last_seq) applyMetrics(metrics, job, body);
      drawNumbers();
      evidence = await callApi(`${api}/evidence`);
      showEvidence(job, evidence);
    }
    if (view === "prediction") showEvidence(job, await callApi(`${api}/evidence`));
    if (view === "study") {
      study ??= await import("./study.js");
      await study.show(job);
    }
    await loadSplit();
    if (FINISHED.has(job.state)) {
      stop?.();
      showOffline(false);
      showArtifacts(await callApi(`${api}/artifacts`));
    }
    showError(null);
  } catch (error) {
    if (!(error instanceof TypeError && stop)) showError(error); // the stream shows that the service is offline
  } finally {
    refreshing -= 1;
    if (!refreshing) pendingMetrics = [];
  }
}

function drawNumbers() {
  if (!metrics) return;
  showNumbers(metrics, job);
  showTraining(metrics);
}

const reload = throttle(refresh, 1000),
  drawNumbersSoon = throttle(drawNumbers, 1000),
  showJobSoon = throttle(showJob, 10000);

function onEvent(kind, data) {
  const isThisJob = data.job_id === job.id;
  if (data.seq) lastSeqByJob.set(data.job_id, data.seq);
  if (kind === "progress") {
    if (isThisJob) {
      job.progress = data.body;
      showProgress(data.body);
      showJobSoon();
    }
    return;
  }
  if (kind === "log") {
    if (isThisJob && !loggedLines.has(`${data.time} ${data.body.message}`)) log(data.time, data.body.message);
    return;
  }
  // The response under way may be older than this event.
  if (kind === "metrics" && isThisJob && refreshing) pendingMetrics.push(data);
  if (kind === "metrics" && isThisJob && metrics) {
    if (applyMetrics(metrics, job, data.body)) reload();
    drawNumbersSoon();
    if (Object.keys(evidence).length) return;
  }
  if (kind === "state" && isThisJob && !loggedLines.has(`${data.time} `))
    log(
      data.time,
      [
        `state ${data.body.state}`,
        data.body.wanted !== "run" && `wanted: ${data.body.wanted}`,
        data.body.reason,
        data.body.message,
      ]
        .filter(Boolean)
        .join(", "),
    );
  reload();
}

// Makes a button request its action of this job.
function bindAction(button) {
  const { action, confirmation } = button.dataset;
  button.addEventListener("click", async () => {
    if (confirmation && !window.confirm(confirmation)) return;
    button.disabled = true;
    try {
      await callApi(`${api}/${action}`, { method: "POST" });
      await refresh();
    } catch (error) {
      showError(error);
    } finally {
      button.disabled = false;
    }
  });
}

// Makes a button request its action, which creates a job, and opens that job's page.
function bindCreation(button) {
  const { action, body } = button.dataset;
  // Kept until the service has responded, so that a second click does not make a second job.
  let key = newIdempotencyKey();
  button.addEventListener("click", async () => {
    button.disabled = true;
    const headers = { "Idempotency-Key": key, ...(body ? { "Content-Type": "application/json" } : {}) };
    try {
      window.location.assign((await callApi(`${api}/${action}`, { method: "POST", headers, body })).links.page);
    } catch (error) {
      showError(error);
      if (!(error instanceof TypeError)) key = newIdempotencyKey();
      button.disabled = false;
    }
  });
}

for (const button of buttons) ("creates" in button.dataset ? bindCreation : bindAction)(button);
window.addEventListener(
  "resize",
  throttle(() => {
    drawNumbers();
    showSplit();
    study?.draw();
  }, 200),
);
await refresh();
if (job) {
  // The same stream carries the events of a study's running trials.
  const followedIds = () => [job.id, ...(study?.runningTrialIds() ?? [])];
  const address = () =>
    `/events?${new URLSearchParams([
      ...followedIds().map((one) => ["job", one]),
      [
        "after",
        followedIds()
          .map((one) => `${one}:${lastSeqByJob.get(one) ?? "newest"}`)
          .join(","),
      ],
    ])}`;
  const start = () => {
    stop?.();
    stop = followEvents(address, onEvent, reload);
  };
  if (!FINISHED.has(job.state)) logLoaded.finally(start);
  study?.onRunningTrialsChange(() => {
    start();
    reload();
  });
  // A new trial is no event of its study, and the end of a job of baselines none of the trainings that wait for it.
  setInterval(() => {
    const waits = job.verdict === "pending" || (study && !FINISHED.has(job.state));
    if (waits && !document.hidden) reload();
  }, REFRESH_SECONDS * 1000);
} else document.getElementById("job").hidden = true;
