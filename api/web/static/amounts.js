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
  if (typeof share !== "number") return "–";
  const hundred = share * 100;
  if (hundred > 0 && hundred < 0.01) return `${Number(hundred.toPrecision(1))} %`;
  if (hundred > 99 && hundred < 100) return hundred > 99.99 ? "> 99.99 %" : `${hundred.toFixed(2)} %`;
  return `${hundred.toFixed(share < 0.1 && share > 0 ? 2 : 0)} %`;
}

// Keys of a profile in words: `zero_volume_share` is "zero volume share".
export function words(key) {
  return key.replace(/^num_/, "").replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
}
