// A line chart of series by step, with reference lines and a confidence band. An undefined value is a gap.
import { drawAxes, isNumber, svgElement, titledElement, linePath } from "./plot.js";

// series: [{name, step, value, kind?}], `kind` is the number of its colour;
// references: [{name, value}], drawn as dashed lines; band: {step, low, high, kind}, drawn behind its line.
export function draw(
  box,
  series,
  { last, title, references = [], band = null, zero = true, format, height, xLabel = "epoch" } = {},
) {
  const values = series.flatMap((line) => line.value).filter(isNumber);
  if (!values.length) {
    box.replaceChildren();
    return;
  }
  values.push(...references.map((line) => line.value), ...(band ? [...band.low, ...band.high].filter(isNumber) : []));
  const low = values.reduce((a, b) => Math.min(a, b), zero ? 0 : Infinity),
    high = values.reduce((a, b) => Math.max(a, b), zero ? 0 : -Infinity);
  const end = series.flatMap((line) => line.step).reduce((a, b) => Math.max(a, b), Math.max(last || 1, 2));
  const { svg, x, y, width, left, right } = drawAxes(box, {
    title,
    height,
    low,
    high,
    from: 1,
    to: end,
    whole: true,
    format,
    xLabel,
  });
  if (band) svg.append(svgElement("path", { class: `band c${band.kind % 6}`, d: area(band, x, y) }));
  let above = Infinity;
  for (const line of references.toSorted((a, b) => a.value - b.value)) {
    svg.append(
      titledElement(
        "line",
        { class: "reference", x1: left, x2: width - right, y1: y(line.value), y2: y(line.value) },
        `${line.name}: ${line.value.toFixed(4)}`,
      ),
    );
    above = Math.min(y(line.value) - 4, above - 12); // labels do not overlap
    svg.append(
      svgElement("text", { class: "reference-name", x: width - right - 4, y: above, "text-anchor": "end" }, line.name),
    );
  }
  series.forEach((line, i) => {
    const colour = (line.kind ?? i) % 6;
    svg.append(svgElement("path", { class: `line c${colour}`, d: linePath(line.step, line.value, x, y) }));
    if (line.step.length > 60) return;
    line.step.forEach((step, j) => {
      if (isNumber(line.value[j]))
        svg.append(
          titledElement(
            "circle",
            { class: `dot c${colour}`, cx: x(step), cy: y(line.value[j]), r: 3.5 },
            `${line.name}, ${step}: ${format ? format(line.value[j]) : line.value[j].toFixed(4)}`,
          ),
        );
    });
  });
  box.replaceChildren(svg);
}

function area({ step, low, high }, x, y) {
  const kept = step.map((_, i) => i).filter((i) => isNumber(low[i]) && isNumber(high[i]));
  if (!kept.length) return "";
  const upper = kept.map((i) => `${x(step[i]).toFixed(1)} ${y(high[i]).toFixed(1)}`);
  const lower = kept.toReversed().map((i) => `${x(step[i]).toFixed(1)} ${y(low[i]).toFixed(1)}`);
  return `M${[...upper, ...lower].join("L")}Z`;
}
