// Shared by all pages: API calls, formatting, and DOM helpers. Text is always set as text, never as markup.

export const FINISHED = new Set(["succeeded", "failed", "cancelled", "pruned"]);

export async function callApi(path, options = {}, read = (response) => response.json()) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  if (response.ok) return response.status === 204 ? null : read(response);
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) document.getElementById("login").hidden = false;
  throw Object.assign(new Error(problem.detail || `${path}: ${response.status}`), { problem });
}

// A new Idempotency-Key. Without a secure context there is no randomUUID.
export function newIdempotencyKey() {
  return (
    crypto.randomUUID?.() ??
    [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")
  );
}

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(
    ...children
      .filter((child) => child !== null && child !== undefined)
      .map((child) => (child instanceof Node ? child : String(child))),
  );
  return node;
}

export function showError(error) {
  const box = document.getElementById("notice");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

// Fixed digits; a value that would show as 0 keeps two significant digits.
export function formatNumber(value, digits = 4) {
  if (typeof value !== "number") return "–";
  return value !== 0 && Math.abs(value) < 10 ** (1 - digits)
    ? String(Number(value.toPrecision(2)))
    : value.toFixed(digits);
}

export function formatDuration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "";
  const whole = Math.round(seconds),
    minutes = Math.round(whole / 60);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function formatTime(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "–";
}

export function progressText(progress) {
  if (!progress) return "";
  const parts = [`${Math.round(progress.ratio * 100)} %`];
  if (progress.phase) parts.push(progress.phase);
  if (progress.phase === "trials")
    return [
      parts[0],
      `${progress.step} of ${progress.steps} trials ended`,
      ...(typeof progress.eta_seconds === "number" ? [`${formatDuration(progress.eta_seconds)} left`] : []),
    ].join(" · ");
  if (progress.epochs) parts.push(`epoch ${progress.epoch} of ${progress.epochs}`);
  if (progress.steps) parts.push(`step ${progress.step} of ${progress.steps}`);
  if (progress.samples_per_second) parts.push(`${Math.round(progress.samples_per_second).toLocaleString()} samples/s`);
  if (typeof progress.eta_seconds === "number") parts.push(`${formatDuration(progress.eta_seconds)} left`);
  return parts.join(" · ");
}

export function fillFacts(list, pairs) {
  list.replaceChildren(
    ...pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

// Fills a table whose first column is the row header. `numeric` are the titles of the columns of numbers.
export function fillTable(box, titles, rows, numeric = []) {
  const align = (title) => (numeric.includes(title) ? { class: "number" } : {});
  const heads = titles.map((title) =>
    title ? element("th", { scope: "col", ...align(title) }, title) : element("td", {}),
  );
  box.replaceChildren(
    element("thead", {}, element("tr", {}, ...heads)),
    element(
      "tbody",
      {},
      ...rows.map(([first, ...cells]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, first),
          ...cells.map((cell, i) => element("td", align(titles[i + 1]), cell)),
        ),
      ),
    ),
  );
}
