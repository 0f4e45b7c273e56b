// Numbers and keys as text.

export function size(bytes) {
  if (typeof bytes !== "number") return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = bytes < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  if (power && power < units.length - 1 && bytes >= 999.95 * 1000 ** power) power += 1; // would round to 1000.0
  return `${(bytes / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

export function count(value) {
  return typeof value === "number" ? value.toLocaleString() : "–";
}

export function percent(share) {
  if (typeof share !== "number") return "–";
  const percentage = share * 100;
  if (percentage > 0 && percentage < 0.01) return `${Number(percentage.toPrecision(1))} %`;
  if (percentage > 99 && percentage < 100) return percentage > 99.99 ? "> 99.99 %" : `${percentage.toFixed(2)} %`;
  return `${percentage.toFixed(share < 0.1 && share > 0 ? 2 : 0)} %`;
}

// A profile's key as a title: `zero_volume_share` is "zero volume share".
export function humanize(key) {
  return key
    .replace(/^num_/, "")
    .replaceAll("_", " ")
    .replace(/^./, (letter) => letter.toUpperCase());
}
