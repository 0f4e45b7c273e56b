// What both pages share: asking the API, and writing text into the page. Text is always set as text, never as markup.

export const FINISHED = new Set(["succeeded", "failed", "cancelled", "pruned"]);

export async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  const words = answer.status === 401 ? "This server asks for an API key; the page works without one only on the server's own machine." : problem.detail;
  throw new Error(words || `${path}: ${answer.status}`);
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function notice(error) {
  const box = document.getElementById("notice");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

export function number(value, digits = 4) {
  return typeof value === "number" ? value.toFixed(digits) : "–";
}

export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function moment(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "–";
}

export function progressText(progress) {
  if (!progress) return "";
  const parts = [`${Math.round(progress.ratio * 100)} %`];
  if (progress.phase) parts.push(progress.phase);
  if (progress.epochs) parts.push(`epoch ${progress.epoch} of ${progress.epochs}`);
  if (progress.steps) parts.push(`step ${progress.step} of ${progress.steps}`);
  if (progress.samples_per_second) parts.push(`${Math.round(progress.samples_per_second).toLocaleString()} samples/s`);
  if (typeof progress.eta_seconds === "number") parts.push(`${duration(progress.eta_seconds)} left`);
  return parts.join(" · ");
}
