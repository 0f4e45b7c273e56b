// A study on its job's page: the live table of its trials, and its plots.
import { bindCompareButton, selectionCheckbox } from "./compare-selection.js";
import { bestTrial, bars, history, intermediate, parallel, slices, timeline } from "./plots.js";
import { isNumber, formatShort } from "./plot.js";
import { callApi, element, FINISHED, formatNumber } from "./service.js";

const byId = (name) => document.getElementById(name);
const MAX_FOLLOWED = 49;
let job = null,
  trials = [],
  importance = null,
  importanceRequested = false,
  onRunningChange = () => {},
  followedIds = "";
const rows = new Map();

export const runningTrialIds = () =>
  trials
    .filter((trial) => !FINISHED.has(trial.state))
    .slice(0, MAX_FOLLOWED)
    .map((trial) => trial.job_id);
export function onRunningTrialsChange(callback) {
  followedIds = runningTrialIds().join();
  onRunningChange = callback;
}

export async function show(newest) {
  job = newest;
  byId("study").hidden = false;
  trials = (await callApi(`/jobs/${job.id}/trials`)).items;
  if (FINISHED.has(job.state) && !importanceRequested) {
    importanceRequested = true;
    importance = await callApi(`/jobs/${job.id}/importance`).catch((error) => ({
      importance: null,
      why: error.message,
    }));
  }
  draw();
  const now = runningTrialIds().join();
  if (now !== followedIds) {
    followedIds = now;
    onRunningChange();
  }
}

export function draw() {
  const { metric, direction } = job.spec.objective,
    minimize = direction === "minimize",
    objective = { metric, minimize };
  const top = bestTrial(trials, minimize);
  const count = (state) => trials.filter((trial) => trial.state === state).length;
  const states = ["running", "queued", "succeeded", "pruned", "failed", "cancelled"]
    .map((state) => [count(state), state])
    .filter(([some]) => some)
    .map(([some, state]) => `${some} ${state}`);
  const best = top ? `Best ${metric} ${formatNumber(top.value)}, trial ${top.number}.` : "No value yet.";
  const summary = `${trials.length} of ${job.spec.n_trials} trials: ${states.join(", ") || "none yet"}. ${best}`;
  if (byId("study-text").textContent !== summary) byId("study-text").textContent = summary;
  const has = {
    history: top,
    intermediate: trials.some((trial) => Object.values(trial.intermediate).some(isNumber)),
    timeline: trials.some((trial) => trial.started_at),
    parallel: top,
    slices: top,
    trials: trials.length,
    importance: importance,
  };
  for (const [name, present] of Object.entries(has)) byId(`${name}-section`).hidden = !present;
  history(byId("history"), trials, objective);
  intermediate(byId("intermediate"), trials, objective);
  timeline(byId("timeline"), trials, job.finished_at ? Date.parse(job.finished_at) : Date.now());
  parallel(byId("parallel"), trials, job.spec.space, objective);
  slices(byId("slices"), trials, job.spec.space, objective);
  if (importance?.importance)
    bars(
      byId("importance"),
      Object.entries(importance.importance).sort((a, b) => b[1] - a[1]),
      `Importance of ${Object.keys(importance.importance).length} parameters`,
    );
  else if (importance) byId("importance").textContent = `Not available: ${importance.why}.`;
  showTable(metric, top);
}

// Table rows are reused, so that a tick or the focus survives an update.
function showTable(metric, top) {
  const keys = Object.keys(job.spec.space);
  if (!byId("trials").tHead) {
    const heads = ["Trial", "State", metric, ...keys, "Epochs", "Pruned at", "Reason"];
    byId("trials").append(
      element("thead", {}, element("tr", {}, ...heads.map((title) => element("th", { scope: "col" }, title)))),
      element("tbody", {}),
    );
  }
  for (const trial of trials) {
    const epochs = Object.keys(trial.intermediate).map(Number),
      last = epochs.at(-1);
    const cells = [
      isNumber(trial.value) ? trial.value.toFixed(4) : "–",
      ...keys.map((key) => formatShort(trial.params[key])),
      last ?? "–",
      trial.state === "pruned" ? `epoch ${last ?? "0"}` : "",
      trial.reason && trial.state !== "pruned"
        ? [trial.reason.replaceAll("_", " "), trial.message].filter(Boolean).join(": ")
        : "",
    ];
    const text = JSON.stringify([trial.state, trial === top, ...cells]);
    let row = rows.get(trial.number);
    if (row?.dataset.text === text) continue;
    if (!row) {
      row = element(
        "tr",
        {},
        element(
          "th",
          { scope: "row" },
          selectionCheckbox(trial.job_id, `trial ${trial.number}`),
          element("a", { href: `/ui/jobs/${trial.job_id}` }, `trial ${trial.number}`),
        ),
      );
      rows.set(trial.number, row);
      byId("trials").tBodies[0].prepend(row);
    }
    row.dataset.text = text;
    row.classList.toggle("top", trial === top);
    row.replaceChildren(
      row.firstChild,
      element("td", {}, element("span", { class: `state ${trial.state}` }, trial.state), trial === top ? " best" : ""),
      ...cells.map((cell) => element("td", {}, cell)),
    );
  }
}

bindCompareButton(byId("compare"), () => [["metric", job.spec.objective.metric]]);
