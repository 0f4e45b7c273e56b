// The split as an SVG timeline: one row per fold, one bar per stretch of trading days, with text for screen readers.

import { svgElement } from "./plot.js";

const ROW = 20,
  GAP = 6,
  LEFT = 62,
  RIGHT = 14,
  BOTTOM = 26,
  MAX_FOLDS = 24;
const ROLES = [
  ["train", "training"],
  ["val", "validation"],
  ["test", "test"],
  ["purged", "gap"],
];
const DAY = 86400000;

function describe(part, label) {
  return `${label} ${part.first} to ${part.last}, ${part.num_days} days`;
}

export function drawSplit(box, folds) {
  const shown = folds.slice(0, MAX_FOLDS);
  const parts = shown.flatMap((fold) => ROLES.flatMap(([role]) => fold[role]));
  const start = Math.min(...parts.map((part) => Date.parse(part.first)));
  const end = Math.max(...parts.map((part) => Date.parse(part.last))) + DAY;
  const width = Math.max(box.clientWidth, 240),
    height = shown.length * (ROW + GAP) + BOTTOM;
  const x = (time) => LEFT + ((time - start) / (end - start)) * (width - LEFT - RIGHT);
  const title = `${folds.length} fold${folds.length > 1 ? "s" : ""} of training, validation and test days`;
  const svg = svgElement("svg", {
    class: "split",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": title,
  });
  shown.forEach((fold, row) => {
    const top = row * (ROW + GAP);
    svg.append(svgElement("text", { x: LEFT - 8, y: top + ROW - 6, "text-anchor": "end" }, `fold ${row + 1}`));
    for (const [role, label] of ROLES)
      for (const part of fold[role]) {
        const left = x(Date.parse(part.first)),
          right = x(Date.parse(part.last) + DAY);
        const bar = svgElement("rect", {
          class: `days ${role}`,
          x: left,
          y: top,
          width: Math.max(1, right - left),
          height: ROW,
        });
        bar.append(svgElement("title", {}, describe(part, label)));
        svg.append(bar);
      }
  });
  const first = new Date(start).getUTCFullYear() + 1,
    last = new Date(end).getUTCFullYear();
  const step = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, (width - LEFT) / 60)));
  for (let year = first; year <= last; year += step) {
    svg.append(svgElement("text", { x: x(Date.UTC(year, 0, 1)), y: height - 8, "text-anchor": "middle" }, year));
  }
  box.replaceChildren(svg);
  const roles = ROLES.filter(([role]) => folds.some((fold) => fold[role].length)).map(([role, label]) => ({
    role,
    label,
  }));
  return { roles, note: folds.length > MAX_FOLDS ? `the first ${MAX_FOLDS} of ${folds.length} folds` : "" };
}
