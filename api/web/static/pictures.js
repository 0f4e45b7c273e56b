// A study in pictures: what each trial reached, which parameters mattered, and when each one ran.
import { frame, known, shape, short, told, trace } from "./plot.js";

const name = (trial) => `trial ${trial.number}`;
const label = (trial) => `${name(trial)}, ${trial.state}: ${known(trial.value) ? trial.value.toFixed(4) : "no value"}`;
const range = (values) => values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);

export function best(trials, minimize) {
  return trials.filter((trial) => known(trial.value)).reduce((a, b) => (a && (minimize ? a.value <= b.value : a.value >= b.value) ? a : b), null);
}

// Values by trial number, and the best so far as a line.
export function history(box, trials, { minimize, metric }) {
  const done = trials.filter((trial) => known(trial.value));
  if (!done.length) { box.replaceChildren(); return; }
  const [low, high] = range(done.map((trial) => trial.value));
  const { picture, x, y, width, right } = frame(box, { title: `${metric} of ${done.length} trials; best ${best(done, minimize).value.toFixed(4)}`, low, high, from: 0, to: Math.max(1, trials.at(-1).number), whole: true, across: "trial" });
  let top = null, path = "";
  for (const trial of done) {
    const better = top === null || (minimize ? trial.value < top : trial.value > top);
    if (better) { path += top === null ? `M${x(trial.number)} ${y(trial.value)}` : `H${x(trial.number)}V${y(trial.value)}`; top = trial.value; }
  }
  picture.append(shape("path", { class: "line c2", d: `${path}H${width - right}` }));
  for (const trial of done) picture.append(told("circle", { class: "dot c0", cx: x(trial.number), cy: y(trial.value), r: 4 }, label(trial)));
  box.replaceChildren(picture);
}

// The objective by epoch of every trial: pruned ones end early, with a mark.
export function intermediate(box, trials, { metric, minimize }) {
  const seen = trials.map((trial) => ({ trial, steps: Object.keys(trial.intermediate).map(Number), values: Object.values(trial.intermediate) })).filter(({ values }) => values.some(known));
  if (!seen.length) { box.replaceChildren(); return; }
  const [low, high] = range(seen.flatMap(({ values }) => values.filter(known)));
  const { picture, x, y } = frame(box, { title: `${metric} by epoch, one line for each of ${seen.length} trials`, low, high, from: 1, to: Math.max(2, ...seen.flatMap(({ steps }) => steps.slice(-1))), whole: true, across: "epoch" });
  const top = best(trials, minimize);
  for (const { trial, steps, values } of seen) {
    const kind = trial === top ? "best" : trial.state;
    const line = told("path", { class: `trial ${kind}`, d: trace(steps, values, x, y) }, label(trial));
    picture.append(line);
    const end = values.findLastIndex(known);
    picture.append(told("circle", { class: `trial-end ${kind}`, cx: x(steps[end]), cy: y(values[end]), r: trial.state === "pruned" ? 4 : 3 }, `${name(trial)}, ${trial.state}${trial.state === "pruned" ? ` at epoch ${steps[end]}` : ""}: ${short(values[end])}`));
  }
  box.replaceChildren(picture);
}

// Shares as bars with their names.
export function bars(box, shares, title) {
  const width = Math.max(box.clientWidth, 240), left = Math.min(170, width * 0.42), row = 30;
  const picture = shape("svg", { class: "curve", viewBox: `0 0 ${width} ${row * shares.length + 4}`, role: "img", "aria-label": title });
  const most = Math.max(...shares.map(([, value]) => value), 1e-9);
  shares.forEach(([key, value], i) => {
    picture.append(shape("text", { x: left - 8, y: row * i + 20, "text-anchor": "end" }, key.length > 24 ? `…${key.slice(-23)}` : key));
    picture.append(told("rect", { class: "bar-fill", x: left, y: row * i + 5, width: Math.max(1, ((width - left - 64) * value) / most), height: row - 10, rx: 3 }, `${key}: ${(value * 100).toFixed(1)} %`));
    picture.append(shape("text", { x: left + ((width - left - 64) * value) / most + 6, y: row * i + 20 }, `${(value * 100).toFixed(0)} %`));
  });
  box.replaceChildren(picture);
}

// Where a parameter's value lies from 0 to 1, by the space it was drawn from.
function scale(dimension, values) {
  if (dimension?.kind === "categorical" || values.some((value) => typeof value !== "number")) {
    const choices = dimension?.choices ?? [...new Set(values)];
    const at = (value) => (choices.length > 1 ? Math.max(0, choices.findIndex((choice) => choice === value)) / (choices.length - 1) : 0.5);
    return { at, marks: choices.map((choice) => [at(choice), short(choice)]) };
  }
  const place = dimension?.log ? Math.log : (value) => value;
  const [low, high] = dimension ? [dimension.low, dimension.high] : range(values);
  const at = (value) => (high > low ? (place(value) - place(low)) / (place(high) - place(low)) : 0.5);
  return { at, marks: [[0, short(low)], [1, short(high)]] };
}

const shade = (value, [low, high], minimize) => Math.min(7, Math.floor((high > low ? (minimize ? high - value : value - low) / (high - low) : 1) * 8));

// Every trial with a value as a line through its parameters; the stronger its colour, the better.
export function parallel(box, trials, space, { metric, minimize }) {
  const done = trials.filter((trial) => known(trial.value)).toSorted((a, b) => (minimize ? b.value - a.value : a.value - b.value));
  const keys = Object.keys(space);
  if (!done.length || !keys.length) { box.replaceChildren(); return; }
  const bounds = range(done.map((trial) => trial.value));
  const width = Math.max(box.clientWidth, 110 * (keys.length + 1)), height = 300, top = 44, bottom = 26, side = 56;
  const picture = shape("svg", { class: "curve", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Parallel coordinates of ${done.length} trials over ${keys.join(", ")}` });
  const axes = [...keys.map((key) => ({ key, of: (trial) => trial.params[key], ...scale(space[key], done.map((trial) => trial.params[key])) })),
    { key: metric, of: (trial) => trial.value, ...scale({ low: bounds[0], high: bounds[1] }, done.map((trial) => trial.value)) }];
  const x = (i) => side + (i * (width - 2 * side)) / (axes.length - 1), y = (share) => height - bottom - share * (height - top - bottom);
  for (const trial of done) picture.append(told("path", { class: `thread s${shade(trial.value, bounds, minimize)}`, d: `M${axes.map((axis, i) => `${x(i).toFixed(1)} ${y(axis.at(axis.of(trial))).toFixed(1)}`).join("L")}` }, `${label(trial)}; ${keys.map((key) => `${key} ${short(trial.params[key])}`).join(", ")}`));
  axes.forEach((axis, i) => {
    picture.append(shape("line", { class: "axis", x1: x(i), x2: x(i), y1: y(0), y2: y(1) }));
    const [section, leaf] = axis.key.includes(".") ? axis.key.split(/\.(.*)/) : ["", axis.key];
    picture.append(shape("text", { x: x(i), y: 14, "text-anchor": "middle" }, section), shape("text", { class: "axis-name", x: x(i), y: 29, "text-anchor": "middle" }, leaf));
    for (const [share, words] of axis.marks) picture.append(shape("text", { class: "halo", x: x(i) + 5, y: y(share) + 4 }, words));
  });
  box.replaceChildren(picture);
}

// One small picture a parameter: its value against what the trial reached.
export function slices(box, trials, space, { metric }) {
  const done = trials.filter((trial) => known(trial.value));
  if (!done.length) { box.replaceChildren(); return; }
  const [low, high] = range(done.map((trial) => trial.value));
  for (const key of Object.keys(space)) {
    let cell = [...box.children].find((child) => child.dataset.key === key);
    if (!cell) { cell = document.createElement("figure"); cell.dataset.key = key; cell.append(Object.assign(document.createElement("figcaption"), { textContent: key }), document.createElement("div")); box.append(cell); }
    const { at, marks } = scale(space[key], done.map((trial) => trial.params[key]));
    const { picture, x, y, height } = frame(cell.lastChild, { title: `${metric} by ${key}, ${done.length} trials`, height: 190, low, high, from: -0.06, to: 1.06, left: 52, whole: true, format: short });
    for (const text of [...picture.querySelectorAll("text")].filter((one) => one.getAttribute("text-anchor") === "middle")) text.remove();
    for (const [share, words] of marks) picture.append(shape("text", { x: x(share), y: height - 14, "text-anchor": "middle" }, words));
    for (const trial of done) picture.append(told("circle", { class: "dot c0 faint", cx: x(at(trial.params[key])), cy: y(trial.value), r: 4 }, `${label(trial)}; ${key} ${short(trial.params[key])}`));
    cell.lastChild.replaceChildren(picture);
  }
}

// When each trial ran, on one clock.
export function timeline(box, trials, now = Date.now()) {
  const ran = trials.filter((trial) => trial.started_at);
  if (!ran.length) { box.replaceChildren(); return; }
  const from = Math.min(...ran.map((trial) => Date.parse(trial.started_at)));
  const to = Math.max(from + 1000, ...ran.map((trial) => (trial.finished_at ? Date.parse(trial.finished_at) : now)));
  const width = Math.max(box.clientWidth, 240), left = 40, row = Math.max(4, Math.min(18, 420 / ran.length)), height = row * ran.length + 30;
  const picture = shape("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `When ${ran.length} trials ran` });
  const x = (time) => left + ((time - from) / (to - from)) * (width - left - 14);
  ran.forEach((trial, i) => {
    const start = Date.parse(trial.started_at), end = trial.finished_at ? Date.parse(trial.finished_at) : now;
    picture.append(told("rect", { class: `span ${trial.state}`, x: x(start), y: row * i + 1, width: Math.max(2, x(end) - x(start)), height: Math.max(2, row - 2), rx: 2 }, `${label(trial)}; ${((end - start) / 1000).toFixed(1)} s`));
    if (row >= 11 || i % Math.ceil(12 / row) === 0) picture.append(shape("text", { x: left - 6, y: row * i + row / 2 + 4, "text-anchor": "end" }, trial.number));
  });
  const seconds = (to - from) / 1000, clock = (share) => new Date(from + share * (to - from)).toLocaleTimeString();
  for (const [share, anchor] of [[0, "start"], [1, "end"]]) picture.append(shape("text", { x: x(from + share * (to - from)), y: height - 8, "text-anchor": anchor }, `${clock(share)}${share ? ` (${seconds.toFixed(0)} s)` : ""}`));
  box.replaceChildren(picture);
}
