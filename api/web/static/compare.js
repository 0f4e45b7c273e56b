import { draw } from "./curve.js";
import { ask, element, notice, number, table } from "./service.js";

const at = (name) => document.getElementById(name);
const asked = new URLSearchParams([...new URLSearchParams(location.search)].filter(([, value]) => value));
let drawn = () => {};

function showForm() {
  for (const id of asked.getAll("job")) at("chosen").append(element("input", { type: "hidden", name: "job", value: id }));
  at("choice").elements.metric.value = asked.get("metric") || "";
  at("choice").elements.baseline.value = asked.get("baseline") || "";
}

function show(found) {
  const repeated = (name) => found.jobs.filter((job) => job.name === name).length > 1;
  const names = new Map(found.jobs.map((job) => [job.id, !job.name || repeated(job.name) ? `${job.name || "job"} ${job.id.slice(-8)}` : job.name]));
  const title = (job) => (job.state === null ? names.get(job.id) : element("a", { href: `/ui/jobs/${encodeURIComponent(job.id)}` }, names.get(job.id)));
  at("fair").textContent = found.fair ? "fair" : "not fair";
  at("fair").className = `state ${found.fair ? "succeeded" : "paused"}`;
  at("reasons").replaceChildren(...found.unfair_because.map((reason) => element("li", {}, reason)));
  at("reasons").hidden = found.fair;
  table(at("pairs"), ["Pair", "Verdict", "Difference", "95 % interval", "p", "Days"], found.pairs.map((pair) => [
    `${names.get(pair.a)} − ${names.get(pair.b)}`, element("strong", {}, pair.verdict), number(pair.mean_difference),
    pair.ci95 ? `${number(pair.ci95[0])} to ${number(pair.ci95[1])}` : "–", typeof pair.p_value === "number" && pair.p_value < 0.001 ? "< 0.001" : number(pair.p_value, 3), pair.num_dropped ? `${pair.num_days} (${pair.num_dropped} dropped)` : pair.num_days,
  ]));
  at("set").textContent = found.model_confidence_set ? `Not to be told from the best at 95 %: ${found.model_confidence_set.map((id) => names.get(id)).join(", ")}` : "";
  table(at("jobs"), ["Job", found.metric, "std", "ic_t", "Days", "State"], found.jobs.map((job) => [title(job), number(job.mean), number(job.std), number(job.ic_t, 2), job.num_days, job.state || "baseline"]));
  const jobs = found.jobs.filter((job) => job.state !== null);
  at("differences-section").hidden = jobs.length < 2;
  table(at("differences"), ["Setting", ...jobs.map((job) => names.get(job.id))], Object.entries(found.differences).map(([field, values]) => [field, ...values.map((value) => (typeof value === "string" ? value : JSON.stringify(value)))]));
  const lines = Object.entries(found.curves).map(([id, points]) => ({ name: names.get(id), ...points }));
  at("curve-section").hidden = !lines.some((line) => line.value.some((value) => value !== null));
  at("legend").replaceChildren(...lines.map((line, i) => element("span", {}, element("span", { class: `key c${i % 6}` }), line.name)));
  at("comparison").hidden = false;
  drawn = () => draw(at("curve"), lines, { title: `${found.metric.replace(/^test/, "val")} by epoch, one line for each job` });
  drawn();
}

showForm();
at("choice").addEventListener("formdata", ({ formData }) => { for (const name of ["metric", "baseline"]) if (!formData.get(name)) formData.delete(name); });
window.addEventListener("resize", () => drawn());
at("busy").hidden = !asked.has("job");
if (asked.has("job")) await ask(`/compare?${asked}`).then(show, notice).finally(() => { at("busy").hidden = true; });
else at("none").hidden = false;
