// The jobs that are ticked for a comparison, on whatever page: they stay ticked while the tab is open.
import { element } from "./service.js";

const PLACE = "compare", MOST = 20;
let chosen = new Set(JSON.parse(sessionStorage.getItem(PLACE) ?? "[]"));
const shown = [];

function keep() {
  sessionStorage.setItem(PLACE, JSON.stringify([...chosen]));
  for (const show of shown) show();
}

export function tick(id, title) {
  const box = element("input", { type: "checkbox", value: id, "aria-label": `compare ${title}` });
  box.checked = chosen.has(id);
  box.addEventListener("change", () => {
    if (box.checked && chosen.size >= MOST) box.checked = false;
    else if (box.checked) chosen.add(id); else chosen.delete(id);
    keep();
  });
  return box;
}

// A button that compares what is ticked, and one that unticks it all.
export function bind(button, more = () => []) {
  const clear = element("button", { type: "button" }, "Untick all");
  button.after(clear);
  clear.addEventListener("click", () => {
    chosen = new Set();
    for (const box of document.querySelectorAll('input[aria-label^="compare "]')) box.checked = false;
    keep();
    button.focus();
  });
  button.addEventListener("click", () => window.location.assign(`/ui/compare?${new URLSearchParams([...[...chosen].map((id) => ["job", id]), ...more()])}`));
  shown.push(() => {
    button.disabled = chosen.size < 2;
    button.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    clear.hidden = !chosen.size;
  });
  shown.at(-1)();
}
