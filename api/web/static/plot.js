// What every plot uses: SVG elements, axes, scales, ticks. Not plotly.js, because its inline styles and its `eval`
// are forbidden by the Content-Security-Policy (docs/decisions/0012).
const SVG = "http://www.w3.org/2000/svg";

export function svgElement(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// An SVG element with a tooltip.
export function titledElement(tag, attributes, label) {
  const made = svgElement(tag, attributes);
  made.append(svgElement("title", {}, label));
  return made;
}

export function ticks(low, high, maxTicks) {
  const minStep = (high - low) / Math.max(1, maxTicks);
  const unit = 10 ** Math.floor(Math.log10(minStep));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= minStep);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) values.push(i * step);
  return { values, digits: Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) };
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function formatShort(value) {
  if (!isNumber(value)) return value === null || value === undefined ? "–" : String(value);
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

// Draws the axes; returns the SVG and its scales. `xLabel` is the title of the x axis.
export function drawAxes(
  box,
  {
    title,
    height,
    low,
    high,
    from,
    to,
    xLabel = "",
    left = 62,
    right = 14,
    top = 12,
    bottom = xLabel ? 44 : 32,
    whole = false,
    format,
  },
) {
  const width = Math.max(box.clientWidth, 240);
  height ??= Math.round(Math.min(560, Math.max(280, width * 0.22)));
  const margin = (high - low || Math.abs(high) || 0.02) * 0.07;
  const bounds = { low: low - margin, high: high + margin };
  const x = (value) => left + ((value - from) / (to - from || 1)) * (width - left - right);
  const y = (value) => top + ((bounds.high - value) / (bounds.high - bounds.low)) * (height - top - bottom);
  const svg = svgElement("svg", {
    class: "curve",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": title,
  });
  const vertical = ticks(bounds.low, bounds.high, 5);
  for (const value of vertical.values) {
    svg.append(
      svgElement("line", {
        class: Math.abs(value) < 1e-12 ? "zero" : "grid",
        x1: left,
        x2: width - right,
        y1: y(value),
        y2: y(value),
      }),
    );
    const label = formatTick(value, vertical.digits, format);
    svg.append(svgElement("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const room = (width - left - right) / 70;
  for (const value of xTicks(from, to, room, whole))
    svg.append(
      svgElement("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, formatShort(value)),
    );
  if (xLabel)
    svg.append(svgElement("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  return { svg, x, y, width, height, left, right, top, bottom };
}

function formatTick(value, digits, format) {
  if (format && format !== formatShort) return format(value);
  return Math.abs(value) >= 1e5 || digits > 5 ? value.toExponential(1) : value.toFixed(digits);
}

function xTicks(from, to, room, whole) {
  if (!whole) return ticks(from, to, room).values;
  return ticks(from, to, Math.min(room, to - from)).values.filter(Number.isInteger);
}

// The path through the points; an undefined value is a gap.
export function linePath(steps, values, x, y) {
  let path = "",
    drawing = false;
  steps.forEach((step, i) => {
    if (isNumber(values[i])) {
      path += `${drawing ? "L" : "M"}${x(step).toFixed(1)} ${y(values[i]).toFixed(1)}`;
      drawing = true;
    } else drawing = false;
  });
  return path;
}
