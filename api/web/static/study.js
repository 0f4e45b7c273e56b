// A study on its job's page: its trials as a table that lives, and as pictures.
import { bind, tick } from "./basket.js";
import { best, bars, history, intermediate, parallel, slices, timeline } from "./pictures.js";
import { known, short } from "./plot.js";
import { ask, element, FINISHED, number } from "./service.js";

const at = (name) => document.getElementById(name);
const FOLLOWED = 49;
let job = null, trials = [], importance = null, asked = false, others = () => {}, followed = "";
const rows = new Map();

export const running = () => trials.filter((trial) => !FINISHED.has(trial.state)).slice(0, FOLLOWED).map((trial) => trial.job_id);
export function whenOthersRun(act) { followed = running().join(); others = act; }

export async function show(newest) {
  job = newest;
  at("study").hidden = false;
  trials = (await ask(`/jobs/${job.id}/trials`)).items;
  if (FINISHED.has(job.state) && !asked) {
    asked = true;
    importance = await ask(`/jobs/${job.id}/importance`).catch((error) => ({ importance: null, why: error.message }));
  }
  draw();
  const now = running().join();
  if (now !== followed) { followed = now; others(); }
}

export function draw() {
  const { metric, direction } = job.spec.objective, minimize = direction === "minimize", facts = { metric, minimize };
  const top = best(trials, minimize);
  const count = (state) => trials.filter((trial) => trial.state === state).length;
  const states = ["running", "queued", "succeeded", "pruned", "failed", "cancelled"].map((state) => [count(state), state]).filter(([some]) => some).map(([some, state]) => `${some} ${state}`);
  const words = `${trials.length} of ${job.spec.n_trials} trials: ${states.join(", ") || "none yet"}. ${top ? `Best ${metric} ${number(top.value)}, trial ${top.number}.` : "No value yet."}`;
  if (at("study-words").textContent !== words) at("study-words").textContent = words;
  const has = { history: top, intermediate: trials.some((trial) => Object.values(trial.intermediate).some(known)), timeline: trials.some((trial) => trial.started_at), parallel: top, slices: top, trials: trials.length, importance: importance };
  for (const [name, there] of Object.entries(has)) at(`${name}-section`).hidden = !there;
  history(at("history"), trials, facts);
  intermediate(at("intermediate"), trials, facts);
  timeline(at("timeline"), trials, job.finished_at ? Date.parse(job.finished_at) : Date.now());
  parallel(at("parallel"), trials, job.spec.space, facts);
  slices(at("slices"), trials, job.spec.space, facts);
  if (importance?.importance) bars(at("importance"), Object.entries(importance.importance).sort((a, b) => b[1] - a[1]), `Importance of ${Object.keys(importance.importance).length} parameters`);
  else if (importance) at("importance").textContent = `Nothing can be said: ${importance.why}.`;
  showTable(metric, top);
}

// Rows are kept by trial, so that a tick or the focus is not lost when something else changes.
function showTable(metric, top) {
  const keys = Object.keys(job.spec.space);
  if (!at("trials").tHead) {
    const heads = ["Trial", "State", metric, ...keys, "Epochs", "Pruned at", "Reason"];
    at("trials").append(element("thead", {}, element("tr", {}, ...heads.map((title) => element("th", { scope: "col" }, title)))), element("tbody", {}));
  }
  for (const trial of trials) {
    const epochs = Object.keys(trial.intermediate).map(Number), last = epochs.at(-1);
    const cells = [known(trial.value) ? trial.value.toFixed(4) : "–", ...keys.map((key) => short(trial.params[key])), last ?? "–", trial.state === "pruned" ? `epoch ${last ?? "0"}` : "", trial.reason && trial.state !== "pruned" ? [trial.reason.replaceAll("_", " "), trial.message].filter(Boolean).join(": ") : ""];
    const text = JSON.stringify([trial.state, trial === top, ...cells]);
    let row = rows.get(trial.number);
    if (row?.dataset.text === text) continue;
    if (!row) { row = element("tr", {}, element("th", { scope: "row" }, tick(trial.job_id, `trial ${trial.number}`), element("a", { href: `/ui/jobs/${trial.job_id}` }, `trial ${trial.number}`))); rows.set(trial.number, row); at("trials").tBodies[0].prepend(row); }
    row.dataset.text = text;
    row.classList.toggle("top", trial === top);
    row.replaceChildren(row.firstChild, element("td", {}, element("span", { class: `state ${trial.state}` }, trial.state), trial === top ? " best" : ""), ...cells.map((cell) => element("td", {}, cell)));
  }
}

bind(at("compare"), () => [["metric", job.spec.objective.metric]]);
