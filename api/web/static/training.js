// A run's metrics: validation curves with confidence band and baselines, the table, and the training curves.
import { size } from "./format.js";
import { draw } from "./curve.js";
import { kindOf } from "./page-kinds.js";
import { METRICS } from "./page-metrics.js";
import { isNumber, formatShort } from "./plot.js";
import { element, FINISHED, formatNumber } from "./service.js";

const byId = (name) => document.getElementById(name);
const { leading, rows, figures } = METRICS;
const FORMATS = {
  seconds: (value) => `${formatShort(value)} s`,
  bytes: (value) => size(value).replace(".0 ", " "),
  share: (value) => `${(value * 100).toFixed(0)} %`,
};
let chosen = null;

const fold = (name) => parseInt(name.slice(4), 10);
const days = (name) => parseInt(name.split("@")[1] ?? "0", 10);

// ± 2 Newey-West standard errors of the mean over validation days, from the t statistic.
function noiseBand(series, name, kind) {
  const values = series[name],
    t = series[name.replace(leading.metric, leading.t)];
  if (!values || !t) return null;
  const by = new Map(t.step.map((step, i) => [step, t.value[i]]));
  const error = values.step.map((step, i) =>
    isNumber(values.value[i]) && isNumber(by.get(step)) && by.get(step) !== 0
      ? Math.abs(values.value[i] / by.get(step))
      : null,
  );
  const bound = (sign) => values.value.map((value, i) => (error[i] === null ? null : value + sign * 2 * error[i]));
  return error.some(isNumber) ? { step: values.step, low: bound(-1), high: bound(1), kind } : null;
}

function showCurve(metrics, job) {
  // One line per fold or member if there are several (their mean has no epochs); else one per horizon and their mean.
  const folds = Object.keys(metrics.series)
    .filter((name) => name !== leading.name && name.replace(/\.\d+\//, "/") === leading.name)
    .sort((a, b) => fold(a) - fold(b));
  const names = folds.length
    ? folds
    : Object.keys(metrics.series)
        .filter((name) => name === leading.name || name.startsWith(`${leading.name}@`))
        .sort((a, b) => days(a) - days(b));
  const lines = names.map((name, kind) => ({
    id: name,
    name: name.split("@")[1] ?? (folds.length ? `${kindOf(job).part} ${fold(name)}` : "mean"),
    kind,
    ...metrics.series[name],
  }));
  byId("curve-section").hidden = !lines.some((line) => line.value.some(isNumber));
  if (byId("curve-section").hidden) return;
  if (!names.includes(chosen)) chosen = names.find((name) => name.includes("@")) ?? names[0];
  const line = lines.find((one) => one.id === chosen);
  const references = Object.entries(metrics.baselines)
    .map(([name, values]) => ({ name, value: values[chosen] }))
    .filter((one) => isNumber(one.value) && one.name !== "oracle_observed");
  const band = !chosen.includes("@") ? null : noiseBand(metrics.series, chosen, line.kind);
  // leave room for half as many epochs again, so that growth shows and few epochs of many still fill the plot
  const lastStep = Math.max(...lines.flatMap((one) => one.step.slice(-1))),
    maxEpochs = job.spec?.trainer?.max_epochs || job.progress?.epochs || lastStep;
  const newest = lines.map((one) => `${one.name} ${formatNumber(one.value.at(-1))}`).join(", ");
  draw(byId("curve"), lines, {
    last: FINISHED.has(job.state) ? lastStep : Math.min(maxEpochs, Math.max(10, Math.ceil(lastStep * 1.5))),
    title: `Validation ${leading.label} by epoch, one line for each horizon or fold; newest ${newest}`,
    references,
    band,
  });
  const focused = document.activeElement?.dataset?.line;
  byId("legend").replaceChildren(
    ...lines.map((one) => {
      const key = element(
        "button",
        { type: "button", class: "legend-key", "aria-pressed": String(one.id === chosen), "data-line": one.id },
        element("span", { class: `key c${one.kind % 6}` }),
        one.name,
        ` ${formatNumber(one.value.at(-1))}`,
      );
      key.addEventListener("click", () => {
        chosen = one.id;
        showCurve(metrics, job);
      });
      return key;
    }),
  );
  if (focused)
    byId("legend")
      .querySelector(`[data-line="${CSS.escape(focused)}"]`)
      ?.focus();
  byId("band-text").textContent = [
    band
      ? `The band around ${line.name} is ± 2 standard errors of its mean over the validation days ` +
        `(Newey-West, as in ${leading.t}): changes inside it may be noise.`
      : "A mean over horizons has no band: its standard error is not recorded.",
    references.length ? `Dashed: simple rankers on the same days, ${line.name}.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

const key = (split, metric, horizon) => (horizon ? `${split}/${metric}@${horizon}` : `${split}/${metric}`);

function sources(split, metrics) {
  const has = (values) => Object.keys(values).some((name) => name.startsWith(`${split}/`));
  return [["model", metrics.latest], ...Object.entries(metrics.baselines).filter(([, values]) => has(values))];
}

function showTable(metrics) {
  const splits = ["test", "val"].filter((split) =>
    Object.keys(metrics.latest).some((name) => name.startsWith(`${split}/`)),
  );
  byId("numbers-section").hidden = splits.length === 0;
  const names = Object.keys(metrics.latest).filter((name) => splits.some((split) => name.startsWith(`${split}/`)));
  const head = [
    "",
    ...[...new Set(names.map((name) => name.split("@")[1]).filter(Boolean))].sort(
      (a, b) => parseInt(a, 10) - parseInt(b, 10),
    ),
  ];
  const body = splits.flatMap((split) =>
    sources(split, metrics).flatMap(([source, values]) =>
      rows
        .filter(({ name }) => head.some((h) => key(split, name, h) in values))
        .filter(({ name }) => source === "model" || name === leading.metric)
        .map(({ name, digits }) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row" },
              `${split} ${name}`,
              source === "model" ? null : element("span", { class: "quiet" }, ` ${source}`),
            ),
            ...head.map((h) =>
              element(
                "td",
                { class: "number" },
                key(split, name, h) in values ? formatNumber(values[key(split, name, h)], digits) : "",
              ),
            ),
          ),
        ),
    ),
  );
  const titles = head.map((h) => element("th", { scope: "col", class: "number" }, h || "mean"));
  byId("numbers").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Metric"), ...titles)),
    element("tbody", {}, ...body),
  );
}

export function showNumbers(metrics, job) {
  showCurve(metrics, job);
  showTable(metrics);
}

function figure(title, lines, options) {
  const text = (line) => `${line.name} ${options.format(line.value.findLast(isNumber))}`;
  const drawn = lines.filter((line) => line && line.value.some(isNumber));
  const box = byId("training");
  let node = box.querySelector(`[data-name="${title}"]`);
  if (!drawn.length) {
    node?.remove();
    return;
  }
  if (!node) {
    node = element(
      "figure",
      { "data-name": title },
      element("figcaption", {}, title),
      element("div", {}),
      element("div", { class: "legend" }),
    );
    box.append(node);
  }
  draw(node.children[1], drawn, {
    title: `${title}: ${drawn.map(text).join(", ")}`,
    height: 200,
    ...options,
  });
  node.children[2].replaceChildren(
    ...drawn.map((line, i) =>
      element("span", {}, element("span", { class: `key c${(line.kind ?? i) % 6}` }), text(line)),
    ),
  );
}

export function showTraining({ series }) {
  // Of several folds or members the newest that has started.
  const folds = Object.keys(series)
    .map((name) => /^train\.(\d+)\//.exec(name)?.[1])
    .filter(Boolean)
    .map(Number);
  const newest = folds.length ? Math.max(...folds) : null;
  byId("training-section").hidden = false; // a hidden section has no width
  for (const { title, lines, unit, x, from_zero, colour } of figures) {
    const drawn = Object.entries(lines).map(([name, label], i) => {
      const own = newest === null || x === "step" ? name : name.replace("/", `.${newest}/`);
      const text = own === name ? label : `${label}, fold ${newest}`;
      return series[own] && { name: text, kind: colour + i, ...series[own] };
    });
    figure(title, drawn, { zero: from_zero, format: FORMATS[unit] ?? formatShort, xLabel: x });
  }
  byId("training-section").hidden = !byId("training").children.length;
}
