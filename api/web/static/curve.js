// One line a series over epochs, as SVG. An undefined point is a gap.

const HEIGHT = 300, LEFT = 56, RIGHT = 14, TOP = 12, BOTTOM = 30;
const SVG = "http://www.w3.org/2000/svg";

export function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

export function draw(box, series, lastStep, title) {
  const WIDTH = Math.max(box.clientWidth, 240);
  const values = series.flatMap((line) => line.value).filter((value) => typeof value === "number");
  if (!values.length) { box.replaceChildren(); return; }
  let low = Math.min(0, ...values), high = Math.max(0, ...values);
  const margin = (high - low || 0.02) * 0.08;
  low -= margin; high += margin;
  const end = Math.max(lastStep || 1, 2, ...series.flatMap((line) => line.step));
  const x = (step) => LEFT + ((step - 1) / (end - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const picture = shape("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  const vertical = ticks(low, high, 5);
  for (const value of vertical.found) {
    picture.append(shape("line", { class: Math.abs(value) < 1e-12 ? "zero" : "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    picture.append(shape("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(vertical.digits)));
  }
  const horizontal = ticks(1, end, Math.min(end - 1, WIDTH / 70)).found.filter((step) => Number.isInteger(step) && step >= 1);
  for (const step of horizontal) picture.append(shape("text", { x: x(step), y: HEIGHT - 10, "text-anchor": "middle" }, step));
  series.forEach((line, colour) => {
    let path = "", pen = false;
    line.step.forEach((step, i) => {
      const value = line.value[i];
      pen = typeof value === "number" ? ((path += `${pen ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`), true) : false;
    });
    picture.append(shape("path", { class: `line c${colour % 6}`, d: path }));
    line.step.forEach((step, i) => {
      if (typeof line.value[i] !== "number" || line.step.length > 60) return;
      const dot = shape("circle", { class: `dot c${colour % 6}`, cx: x(step), cy: y(line.value[i]), r: 3.5 });
      dot.append(shape("title", {}, `${line.name}, epoch ${step}: ${line.value[i].toFixed(4)}`));
      picture.append(dot);
    });
  });
  box.replaceChildren(picture);
}
