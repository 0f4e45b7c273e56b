// A run's numbers: curves per horizon with their noise and baselines, the table, and how the training itself goes.
import { size } from "./amounts.js";
import { draw } from "./curve.js";
import { known, short } from "./plot.js";
import { element, FINISHED, number } from "./service.js";

const at = (name) => document.getElementById(name);
const CURVE = "val/rank_ic";
const ROWS = ["rank_ic", "rank_ic_t", "ic", "rank_icir", "icir", "ic_t", "hit_rate", "sharpe_ann", "sharpe_net_ann", "turnover", "max_drawdown", "spread", "loss", "pred_std_ratio", "oracle_share_ratio", "num_days"];
const PARTS = ["data", "graph", "forward", "backward", "optimizer", "validation"];
let chosen = null;

const fold = (name) => parseInt(name.slice(4), 10);
const days = (name) => parseInt(name.split("@")[1] ?? "0", 10);

// Two standard errors of the mean over validation days: the daily series' own, Newey-West, out of its t statistic.
function noise(series, name, kind) {
  const values = series[name], t = series[name.replace("rank_ic", "rank_ic_t")];
  if (!values || !t) return null;
  const by = new Map(t.step.map((step, i) => [step, t.value[i]]));
  const error = values.step.map((step, i) => (known(values.value[i]) && known(by.get(step)) && by.get(step) !== 0 ? Math.abs(values.value[i] / by.get(step)) : null));
  const edge = (sign) => values.value.map((value, i) => (error[i] === null ? null : value + sign * 2 * error[i]));
  return error.some(known) ? { step: values.step, low: edge(-1), high: edge(1), kind } : null;
}

function showCurve(metrics, job) {
  // Of several folds, whose mean has no epochs, one line a fold or member; else one a horizon and their mean.
  const folds = Object.keys(metrics.series).filter((name) => /^val\.\d+\/rank_ic$/.test(name)).sort((a, b) => fold(a) - fold(b));
  const names = folds.length ? folds : Object.keys(metrics.series).filter((name) => name === CURVE || name.startsWith(`${CURVE}@`)).sort((a, b) => days(a) - days(b));
  const lines = names.map((name, kind) => ({ id: name, name: name.split("@")[1] ?? (folds.length ? `${job.kind === "ensemble" ? "member" : "fold"} ${fold(name)}` : "mean"), kind, ...metrics.series[name] }));
  at("curve-section").hidden = !lines.some((line) => line.value.some(known));
  if (at("curve-section").hidden) return;
  if (!names.includes(chosen)) chosen = names.find((name) => name.includes("@")) ?? names[0];
  const line = lines.find((one) => one.id === chosen);
  const references = Object.entries(metrics.baselines).map(([name, values]) => ({ name, value: values[chosen] })).filter((one) => known(one.value) && one.name !== "oracle_observed");
  const band = !chosen.includes("@") ? null : noise(metrics.series, chosen, line.kind);
  // room for half as many epochs again, so that the line can be seen to grow and few of many still fill the picture
  const seen = Math.max(...lines.flatMap((one) => one.step.slice(-1))), most = job.spec?.trainer?.max_epochs || job.progress?.epochs || seen;
  draw(at("curve"), lines, { last: FINISHED.has(job.state) ? seen : Math.min(most, Math.max(10, Math.ceil(seen * 1.5))), title: `Validation RankIC by epoch, one line for each horizon or fold; newest ${lines.map((one) => `${one.name} ${number(one.value.at(-1))}`).join(", ")}`, references, band });
  const focused = document.activeElement?.dataset?.line;
  at("legend").replaceChildren(...lines.map((one) => {
    const key = element("button", { type: "button", class: "legend-key", "aria-pressed": String(one.id === chosen), "data-line": one.id }, element("span", { class: `key c${one.kind % 6}` }), one.name, ` ${number(one.value.at(-1))}`);
    key.addEventListener("click", () => { chosen = one.id; showCurve(metrics, job); });
    return key;
  }));
  if (focused) at("legend").querySelector(`[data-line="${CSS.escape(focused)}"]`)?.focus();
  at("band-words").textContent = [
    band ? `The band around ${line.name} is ± 2 standard errors of its mean over the validation days (Newey-West, as rank_ic_t has it): what moves inside it may be noise.` : "A mean over horizons has no band: its standard error is not recorded.",
    references.length ? `Dashed: simple rankers on the same days, ${line.name}.` : "",
  ].filter(Boolean).join(" ");
}

const key = (split, metric, horizon) => (horizon ? `${split}/${metric}@${horizon}` : `${split}/${metric}`);

function sources(split, metrics) {
  const has = (values) => Object.keys(values).some((name) => name.startsWith(`${split}/`));
  return [["model", metrics.latest], ...Object.entries(metrics.baselines).filter(([, values]) => has(values))];
}

function showTable(metrics) {
  const splits = ["test", "val"].filter((split) => Object.keys(metrics.latest).some((name) => name.startsWith(`${split}/`)));
  at("numbers-section").hidden = splits.length === 0;
  const names = Object.keys(metrics.latest).filter((name) => splits.some((split) => name.startsWith(`${split}/`)));
  const head = ["", ...[...new Set(names.map((name) => name.split("@")[1]).filter(Boolean))].sort((a, b) => parseInt(a, 10) - parseInt(b, 10))];
  const body = splits.flatMap((split) => sources(split, metrics).flatMap(([source, values]) => ROWS
    .filter((metric) => head.some((h) => key(split, metric, h) in values))
    .filter((metric) => source === "model" || metric === "rank_ic")
    .map((metric) => element("tr", {}, element("th", { scope: "row" }, `${split} ${metric}`, source === "model" ? null : element("span", { class: "quiet" }, ` ${source}`)),
      ...head.map((h) => element("td", { class: "number" }, key(split, metric, h) in values ? number(values[key(split, metric, h)], metric === "num_days" ? 0 : 4) : ""))))));
  const titles = head.map((h) => element("th", { scope: "col", class: "number" }, h || "mean"));
  at("numbers").replaceChildren(element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Metric"), ...titles)), element("tbody", {}, ...body));
}

export function showNumbers(metrics, job) {
  showCurve(metrics, job);
  showTable(metrics);
}

function figure(name, title, lines, options = {}) {
  const told = lines.filter((line) => line && line.value.some(known));
  const box = at("training");
  let made = box.querySelector(`[data-name="${name}"]`);
  if (!told.length) { made?.remove(); return; }
  if (!made) { made = element("figure", { "data-name": name }, element("figcaption", {}, title), element("div", {}), element("div", { class: "legend" })); box.append(made); }
  const words = options.format ?? short;
  draw(made.children[1], told, { title: `${title}: ${told.map((line) => `${line.name} ${words(line.value.findLast(known))}`).join(", ")}`, height: 200, format: words, ...options });
  made.children[2].replaceChildren(...told.map((line, i) => element("span", {}, element("span", { class: `key c${(line.kind ?? i) % 6}` }), `${line.name} ${words(line.value.findLast(known))}`)));
}

export function showTraining({ series }) {
  // Of several folds or members the newest one that has begun.
  const folds = Object.keys(series).map((name) => /^train\.(\d+)\/loss$/.exec(name)?.[1]).filter(Boolean).map(Number);
  const newest = folds.length ? Math.max(...folds) : null;
  const line = (name, title, kind) => {
    const own = newest === null || name.startsWith("step/") ? name : name.replace("/", `.${newest}/`);
    return series[own] && { name: own === name ? title : `${title}, fold ${newest}`, kind, ...series[own] };
  };
  at("training-section").hidden = false;  // what is hidden has no width to draw in
  figure("loss", "Loss", [line("train/loss", "training", 0), line("val/loss", "validation", 1)], { zero: false });
  figure("lr", "Learning rate", [line("step/lr", "learning rate", 0)], { across: "step" });
  figure("grad", "Gradient norm", [line("step/grad_norm", "before clipping", 3)], { across: "step" });
  figure("time", "Seconds of an epoch", PARTS.map((part, kind) => line(`time/${part}_seconds`, part, kind)), { format: (value) => `${short(value)} s` });
  figure("speed", "Samples a second", [line("time/samples_per_second", "training", 2)]);
  figure("memory", "Memory", [line("system/rss_bytes", "process", 0), line("system/gpu_memory_bytes", "device", 1)], { format: (value) => size(value).replace(".0 ", " ") });
  figure("use", "Use of the device", [line("system/cpu_utilization_ratio", "processor, of its threads", 0), line("system/gpu_utilization_ratio", "GPU", 1)], { format: (value) => `${(value * 100).toFixed(0)} %` });
  at("training-section").hidden = !at("training").children.length;
}
