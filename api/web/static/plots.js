// The plots of a study as SVG: optimization history, learning curves, importance, parallel coordinates, slices and
// timeline.
import { drawAxes, isNumber, svgElement, formatShort, titledElement, linePath } from "./plot.js";

const trialName = (trial) => `trial ${trial.number}`;
const describeTrial = (trial) =>
  `${trialName(trial)}, ${trial.state}: ${isNumber(trial.value) ? trial.value.toFixed(4) : "no value"}`;
const extent = (values) =>
  values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);

export function bestTrial(trials, minimize) {
  return trials
    .filter((trial) => isNumber(trial.value))
    .reduce((a, b) => (a && (minimize ? a.value <= b.value : a.value >= b.value) ? a : b), null);
}

// Optimization history: the objective by trial number, and the best so far as a line.
export function history(box, trials, { minimize, metric }) {
  const completed = trials.filter((trial) => isNumber(trial.value));
  if (!completed.length) {
    box.replaceChildren();
    return;
  }
  const [low, high] = extent(completed.map((trial) => trial.value));
  const { svg, x, y, width, right } = drawAxes(box, {
    title: `${metric} of ${completed.length} trials; best ${bestTrial(completed, minimize).value.toFixed(4)}`,
    low,
    high,
    from: 0,
    to: Math.max(1, trials.at(-1).number),
    whole: true,
    xLabel: "trial",
  });
  let top = null,
    path = "";
  for (const trial of completed) {
    const better = top === null || (minimize ? trial.value < top : trial.value > top);
    if (better) {
      path += top === null ? `M${x(trial.number)} ${y(trial.value)}` : `H${x(trial.number)}V${y(trial.value)}`;
      top = trial.value;
    }
  }
  svg.append(svgElement("path", { class: "line c2", d: `${path}H${width - right}` }));
  for (const trial of completed)
    svg.append(
      titledElement("circle", { class: "dot c0", cx: x(trial.number), cy: y(trial.value), r: 4 }, describeTrial(trial)),
    );
  box.replaceChildren(svg);
}

// Learning curves: the objective by epoch of every trial; a pruned trial's end is marked.
export function intermediate(box, trials, { metric, minimize }) {
  const reported = trials
    .map((trial) => ({
      trial,
      steps: Object.keys(trial.intermediate).map(Number),
      values: Object.values(trial.intermediate),
    }))
    .filter(({ values }) => values.some(isNumber));
  if (!reported.length) {
    box.replaceChildren();
    return;
  }
  const [low, high] = extent(reported.flatMap(({ values }) => values.filter(isNumber)));
  const { svg, x, y } = drawAxes(box, {
    title: `${metric} by epoch, one line for each of ${reported.length} trials`,
    low,
    high,
    from: 1,
    to: Math.max(2, ...reported.flatMap(({ steps }) => steps.slice(-1))),
    whole: true,
    xLabel: "epoch",
  });
  const top = bestTrial(trials, minimize);
  for (const { trial, steps, values } of reported) {
    const kind = trial === top ? "best" : trial.state;
    const line = titledElement(
      "path",
      { class: `trial ${kind}`, d: linePath(steps, values, x, y) },
      describeTrial(trial),
    );
    svg.append(line);
    const end = values.findLastIndex(isNumber);
    const pruned = trial.state === "pruned" ? ` at epoch ${steps[end]}` : "";
    svg.append(
      titledElement(
        "circle",
        { class: `trial-end ${kind}`, cx: x(steps[end]), cy: y(values[end]), r: trial.state === "pruned" ? 4 : 3 },
        `${trialName(trial)}, ${trial.state}${pruned}: ${formatShort(values[end])}`,
      ),
    );
  }
  box.replaceChildren(svg);
}

// A horizontal bar chart of shares.
export function bars(box, shares, title) {
  const width = Math.max(box.clientWidth, 240),
    left = Math.min(170, width * 0.42),
    row = 30;
  const svg = svgElement("svg", {
    class: "curve",
    viewBox: `0 0 ${width} ${row * shares.length + 4}`,
    role: "img",
    "aria-label": title,
  });
  const largest = Math.max(...shares.map(([, value]) => value), 1e-9);
  shares.forEach(([key, value], i) => {
    svg.append(
      svgElement(
        "text",
        { x: left - 8, y: row * i + 20, "text-anchor": "end" },
        key.length > 24 ? `…${key.slice(-23)}` : key,
      ),
    );
    svg.append(
      titledElement(
        "rect",
        {
          class: "bar-fill",
          x: left,
          y: row * i + 5,
          width: Math.max(1, ((width - left - 64) * value) / largest),
          height: row - 10,
          rx: 3,
        },
        `${key}: ${(value * 100).toFixed(1)} %`,
      ),
    );
    svg.append(
      svgElement(
        "text",
        { x: left + ((width - left - 64) * value) / largest + 6, y: row * i + 20 },
        `${(value * 100).toFixed(0)} %`,
      ),
    );
  });
  box.replaceChildren(svg);
}

// Maps a parameter's value to 0 … 1 within its search space; `labels` are [position, text].
export function scale(dimension, values) {
  if (dimension?.kind === "categorical" || values.some((value) => typeof value !== "number")) {
    const choices = dimension?.choices ?? [...new Set(values)];
    const position = (value) =>
      choices.length > 1
        ? Math.max(
            0,
            choices.findIndex((choice) => choice === value),
          ) /
          (choices.length - 1)
        : 0.5;
    return { position, labels: choices.map((choice) => [position(choice), formatShort(choice)]) };
  }
  const transform = dimension?.log ? Math.log : (value) => value;
  const [low, high] = dimension ? [dimension.low, dimension.high] : extent(values);
  const position = (value) =>
    high > low ? (transform(value) - transform(low)) / (transform(high) - transform(low)) : 0.5;
  return {
    position,
    labels: [
      [0, formatShort(low)],
      [1, formatShort(high)],
    ],
  };
}

const shade = (value, [low, high], minimize) =>
  Math.min(7, Math.floor((high > low ? (minimize ? high - value : value - low) / (high - low) : 1) * 8));

// Parallel coordinates: every trial with a value as a line through its parameters; stronger colours are better.
export function parallel(box, trials, space, { metric, minimize }) {
  const completed = trials
    .filter((trial) => isNumber(trial.value))
    .toSorted((a, b) => (minimize ? b.value - a.value : a.value - b.value));
  const keys = Object.keys(space);
  if (!completed.length || !keys.length) {
    box.replaceChildren();
    return;
  }
  const bounds = extent(completed.map((trial) => trial.value));
  const width = Math.max(box.clientWidth, 110 * (keys.length + 1)),
    height = 300,
    top = 44,
    bottom = 26,
    side = 56;
  const svg = svgElement("svg", {
    class: "curve",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `Parallel coordinates of ${completed.length} trials over ${keys.join(", ")}`,
  });
  const axes = [
    ...keys.map((key) => ({
      key,
      read: (trial) => trial.params[key],
      ...scale(
        space[key],
        completed.map((trial) => trial.params[key]),
      ),
    })),
    {
      key: metric,
      read: (trial) => trial.value,
      ...scale(
        { low: bounds[0], high: bounds[1] },
        completed.map((trial) => trial.value),
      ),
    },
  ];
  const x = (i) => side + (i * (width - 2 * side)) / (axes.length - 1),
    y = (share) => height - bottom - share * (height - top - bottom);
  for (const trial of completed) {
    const heightOn = (axis) => y(axis.position(axis.read(trial))).toFixed(1);
    svg.append(
      titledElement(
        "path",
        {
          class: `thread s${shade(trial.value, bounds, minimize)}`,
          d: `M${axes.map((axis, i) => `${x(i).toFixed(1)} ${heightOn(axis)}`).join("L")}`,
        },
        `${describeTrial(trial)}; ${keys.map((key) => `${key} ${formatShort(trial.params[key])}`).join(", ")}`,
      ),
    );
  }
  axes.forEach((axis, i) => {
    svg.append(svgElement("line", { class: "axis", x1: x(i), x2: x(i), y1: y(0), y2: y(1) }));
    const [section, leaf] = axis.key.includes(".") ? axis.key.split(/\.(.*)/) : ["", axis.key];
    svg.append(
      svgElement("text", { x: x(i), y: 14, "text-anchor": "middle" }, section),
      svgElement("text", { class: "axis-name", x: x(i), y: 29, "text-anchor": "middle" }, leaf),
    );
    for (const [share, text] of axis.labels)
      svg.append(svgElement("text", { class: "halo", x: x(i) + 5, y: y(share) + 4 }, text));
  });
  box.replaceChildren(svg);
}

// Slice plots: one scatter plot per parameter, its value against the objective.
export function slices(box, trials, space, { metric }) {
  const completed = trials.filter((trial) => isNumber(trial.value));
  if (!completed.length) {
    box.replaceChildren();
    return;
  }
  const [low, high] = extent(completed.map((trial) => trial.value));
  for (const key of Object.keys(space)) {
    let cell = [...box.children].find((child) => child.dataset.key === key);
    if (!cell) {
      cell = document.createElement("figure");
      cell.dataset.key = key;
      cell.append(
        Object.assign(document.createElement("figcaption"), { textContent: key }),
        document.createElement("div"),
      );
      box.append(cell);
    }
    const { position, labels } = scale(
      space[key],
      completed.map((trial) => trial.params[key]),
    );
    const { svg, x, y, height } = drawAxes(cell.lastChild, {
      title: `${metric} by ${key}, ${completed.length} trials`,
      height: 190,
      low,
      high,
      from: -0.06,
      to: 1.06,
      left: 52,
      whole: true,
      format: formatShort,
    });
    for (const text of [...svg.querySelectorAll("text")].filter((one) => one.getAttribute("text-anchor") === "middle"))
      text.remove();
    for (const [share, text] of labels)
      svg.append(svgElement("text", { x: x(share), y: height - 14, "text-anchor": "middle" }, text));
    for (const trial of completed)
      svg.append(
        titledElement(
          "circle",
          { class: "dot c0 faint", cx: x(position(trial.params[key])), cy: y(trial.value), r: 4 },
          `${describeTrial(trial)}; ${key} ${formatShort(trial.params[key])}`,
        ),
      );
    cell.lastChild.replaceChildren(svg);
  }
}

// Timeline: one bar per trial from its start to its end.
export function timeline(box, trials, now = Date.now()) {
  const ran = trials.filter((trial) => trial.started_at);
  if (!ran.length) {
    box.replaceChildren();
    return;
  }
  const from = Math.min(...ran.map((trial) => Date.parse(trial.started_at)));
  const to = Math.max(from + 1000, ...ran.map((trial) => (trial.finished_at ? Date.parse(trial.finished_at) : now)));
  const width = Math.max(box.clientWidth, 240),
    left = 40,
    row = Math.max(4, Math.min(18, 420 / ran.length)),
    height = row * ran.length + 30;
  const svg = svgElement("svg", {
    class: "curve",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `When ${ran.length} trials ran`,
  });
  const x = (time) => left + ((time - from) / (to - from)) * (width - left - 14);
  ran.forEach((trial, i) => {
    const start = Date.parse(trial.started_at),
      end = trial.finished_at ? Date.parse(trial.finished_at) : now;
    svg.append(
      titledElement(
        "rect",
        {
          class: `span ${trial.state}`,
          x: x(start),
          y: row * i + 1,
          width: Math.max(2, x(end) - x(start)),
          height: Math.max(2, row - 2),
          rx: 2,
        },
        `${describeTrial(trial)}; ${((end - start) / 1000).toFixed(1)} s`,
      ),
    );
    if (row >= 11 || i % Math.ceil(12 / row) === 0)
      svg.append(svgElement("text", { x: left - 6, y: row * i + row / 2 + 4, "text-anchor": "end" }, trial.number));
  });
  const seconds = (to - from) / 1000,
    clock = (share) => new Date(from + share * (to - from)).toLocaleTimeString();
  for (const [share, anchor] of [
    [0, "start"],
    [1, "end"],
  ])
    svg.append(
      svgElement(
        "text",
        { x: x(from + share * (to - from)), y: height - 8, "text-anchor": anchor },
        `${clock(share)}${share ? ` (${seconds.toFixed(0)} s)` : ""}`,
      ),
    );
  box.replaceChildren(svg);
}
