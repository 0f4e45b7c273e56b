// Amounts in words.

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

export function count(value) {
  return typeof value === "number" ? value.toLocaleString() : "–";
}

export function percent(share) {
  return typeof share === "number" ? `${(share * 100).toFixed(share < 0.1 && share > 0 ? 2 : 0)} %` : "–";
}

// Keys of a profile in words: `zero_volume_share` is "zero volume share".
export function words(key) {
  return key.replace(/^num_/, "").replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
}
