import { METRICS } from "./page-metrics.js";
import { draw } from "./curve.js";
import { callApi, element, showError, formatNumber, fillTable } from "./service.js";

const byId = (name) => document.getElementById(name);
const query = new URLSearchParams([...new URLSearchParams(location.search)].filter(([, value]) => value));
let redraw = () => {};

function showForm() {
  for (const id of query.getAll("job"))
    byId("chosen").append(element("input", { type: "hidden", name: "job", value: id }));
  byId("choice").elements.metric.value = query.get("metric") || "";
  byId("choice").elements.baseline.value = query.get("baseline") || "";
}

function show(comparison) {
  const repeated = (name) => comparison.jobs.filter((job) => job.name === name).length > 1;
  const names = new Map(
    comparison.jobs.map((job) => [
      job.id,
      !job.name || repeated(job.name) ? `${job.name || "job"} ${job.id.slice(-8)}` : job.name,
    ]),
  );
  const title = (job) =>
    job.state === null
      ? names.get(job.id)
      : element("a", { href: `/ui/jobs/${encodeURIComponent(job.id)}` }, names.get(job.id));
  byId("fair").textContent = comparison.fair ? "fair" : "not fair";
  byId("fair").className = `state ${comparison.fair ? "succeeded" : "paused"}`;
  byId("reasons").replaceChildren(...comparison.unfair_because.map((reason) => element("li", {}, reason)));
  byId("reasons").hidden = comparison.fair;
  fillTable(
    byId("pairs"),
    ["Pair", "Verdict", "Difference", "95 % interval", "p", "Days"],
    comparison.pairs.map((pair) => [
      `${names.get(pair.a)} − ${names.get(pair.b)}`,
      element("strong", {}, pair.verdict),
      formatNumber(pair.mean_difference),
      pair.ci95 ? `${formatNumber(pair.ci95[0])} to ${formatNumber(pair.ci95[1])}` : "–",
      typeof pair.p_value === "number" && pair.p_value < 0.001 ? "< 0.001" : formatNumber(pair.p_value, 3),
      pair.num_dropped ? `${pair.num_days} (${pair.num_dropped} dropped)` : pair.num_days,
    ]),
  );
  const best = comparison.model_confidence_set?.map((id) => names.get(id)).join(", ");
  byId("set").textContent = best ? `Not significantly worse than the best at 95 % (model confidence set): ${best}` : "";
  fillTable(
    byId("jobs"),
    ["Job", comparison.metric, "std", METRICS.comparison_t, "Days", "State"],
    comparison.jobs.map((job) => [
      title(job),
      formatNumber(job.mean),
      formatNumber(job.std),
      formatNumber(job.ic_t, 2),
      job.num_days,
      job.state || "baseline",
    ]),
  );
  const jobs = comparison.jobs.filter((job) => job.state !== null);
  byId("differences-section").hidden = jobs.length < 2;
  fillTable(
    byId("differences"),
    ["Setting", ...jobs.map((job) => names.get(job.id))],
    Object.entries(comparison.differences).map(([field, values]) => [
      field,
      ...values.map((value) => (typeof value === "string" ? value : JSON.stringify(value))),
    ]),
  );
  const lines = Object.entries(comparison.curves).map(([id, points]) => ({ name: names.get(id), ...points }));
  byId("curve-section").hidden = !lines.some((line) => line.value.some((value) => value !== null));
  byId("legend").replaceChildren(
    ...lines.map((line, i) => element("span", {}, element("span", { class: `key c${i % 6}` }), line.name)),
  );
  byId("comparison").hidden = false;
  redraw = () =>
    draw(byId("curve"), lines, {
      title: `${comparison.metric.replace(/^test/, "val")} by epoch, one line for each job`,
    });
  redraw();
}

showForm();
byId("choice").addEventListener("formdata", ({ formData }) => {
  for (const name of ["metric", "baseline"]) if (!formData.get(name)) formData.delete(name);
});
window.addEventListener("resize", () => redraw());
byId("busy").hidden = !query.has("job");
if (query.has("job"))
  await callApi(`/compare?${query}`)
    .then(show, showError)
    .finally(() => {
      byId("busy").hidden = true;
    });
else byId("none").hidden = false;
