// A heat map of shares by group and period. An unknown share is left empty.
import { svgElement } from "./plot.js";

const CELL = 9,
  ROW = 20,
  LEFT = 150,
  TOP = 22;

export function draw(box, { periods, groups, share }, title) {
  const cell = Math.max(CELL, Math.min(40, Math.floor((box.clientWidth - LEFT) / periods.length)));
  const width = LEFT + cell * periods.length,
    height = TOP + ROW * groups.length + 4;
  const svg = svgElement("svg", {
    class: "heat",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": title,
  });
  let year = "";
  periods.forEach((period, m) => {
    if (period.slice(0, 4) === year) return;
    year = period.slice(0, 4);
    const rest = periods.slice(m).filter((other) => other.startsWith(year)).length;
    if (cell * rest > 30) svg.append(svgElement("text", { x: LEFT + cell * m, y: TOP - 8 }, year));
  });
  groups.forEach((group, g) => {
    svg.append(
      svgElement(
        "text",
        { x: LEFT - 8, y: TOP + ROW * g + 14, "text-anchor": "end" },
        group.length > 20 ? `${group.slice(0, 19)}…` : group,
      ),
    );
    periods.forEach((period, m) => {
      const value = share[g]?.[m];
      const known = typeof value === "number";
      const rect = svgElement("rect", {
        class: known ? "share" : "unknown",
        x: LEFT + cell * m,
        y: TOP + ROW * g,
        width: cell - 1,
        height: ROW - 2,
        ...(known ? { "fill-opacity": Math.max(0.03, value).toFixed(3) } : {}),
      });
      rect.append(svgElement("title", {}, `${group}, ${period}: ${known ? `${(value * 100).toFixed(1)} %` : "–"}`));
      svg.append(rect);
    });
  });
  box.replaceChildren(svg);
}

// The average share of each group as text, for screen readers.
export function averages({ groups, share }) {
  return groups
    .map((group, g) => {
      const values = (share[g] || []).filter((value) => typeof value === "number");
      return values.length
        ? `${group} ${((100 * values.reduce((sum, value) => sum + value, 0)) / values.length).toFixed(0)} %`
        : `${group} –`;
    })
    .join(", ");
}
