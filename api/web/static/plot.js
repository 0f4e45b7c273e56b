// What every picture is made of: SVG shapes, scales, ticks. Our own, because plotly.js writes inline styles and makes
// code from text, which the Content-Security-Policy forbids (docs/decisions).
const SVG = "http://www.w3.org/2000/svg";

export function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A shape that says what it is when pointed at.
export function told(tag, attributes, words) {
  const made = shape(tag, attributes);
  made.append(shape("title", {}, words));
  return made;
}

export function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return { found, digits: Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) };
}

export const known = (value) => typeof value === "number" && Number.isFinite(value);

export function short(value) {
  if (!known(value)) return value === null || value === undefined ? "–" : String(value);
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

// A frame with axes; answers the picture and the scales. Vertical values are numbers; `across` is what lies below.
export function frame(box, { title, height, low, high, from, to, across = "", left = 62, right = 14, top = 12, bottom = across ? 44 : 32, whole = false, format, log = false }) {
  const width = Math.max(box.clientWidth, 240);
  height ??= Math.round(Math.min(560, Math.max(280, width * 0.22)));
  const margin = (high - low || Math.abs(high) || 0.02) * 0.07;
  const bounds = { low: low - margin, high: high + margin };
  const place = log ? Math.log10 : (value) => value;
  const span = place(to) - place(from) || 1;
  const x = (value) => left + ((place(value) - place(from)) / span) * (width - left - right);
  const y = (value) => top + ((bounds.high - value) / (bounds.high - bounds.low)) * (height - top - bottom);
  const picture = shape("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const vertical = ticks(bounds.low, bounds.high, 5);
  for (const value of vertical.found) {
    picture.append(shape("line", { class: Math.abs(value) < 1e-12 ? "zero" : "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    const words = format && format !== short ? format(value) : Math.max(Math.abs(value), 0) >= 1e5 || vertical.digits > 5 ? value.toExponential(1) : value.toFixed(vertical.digits);
    picture.append(shape("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, words));
  }
  const room = (width - left - right) / 70;
  const marks = log ? decades(from, to) : ticks(from, to, Math.min(room, whole ? to - from : room)).found.filter((value) => !whole || Number.isInteger(value));
  for (const value of marks) picture.append(shape("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, short(value)));
  if (across) picture.append(shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, across));
  return { picture, x, y, width, height, left, right, top, bottom };
}

function decades(from, to) {
  const found = [];
  for (let power = Math.ceil(Math.log10(from) - 1e-9); power <= Math.log10(to) + 1e-9; power += 1) found.push(10 ** power);
  return found.length > 1 ? found : [from, to];
}

// The path through the points; an undefined one is a gap.
export function trace(steps, values, x, y) {
  let path = "", pen = false;
  steps.forEach((step, i) => {
    if (known(values[i])) { path += `${pen ? "L" : "M"}${x(step).toFixed(1)} ${y(values[i]).toFixed(1)}`; pen = true; } else pen = false;
  });
  return path;
}
