// The jobs selected for comparison, kept in sessionStorage: the selection is shared by all pages of a tab.
import { element } from "./service.js";

const STORAGE_KEY = "compare",
  MAX_JOBS = 20;
let selected = new Set(JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "[]"));
const renderers = [];

function save() {
  sessionStorage.setItem(STORAGE_KEY, JSON.stringify([...selected]));
  for (const render of renderers) render();
}

export function selectionCheckbox(id, title) {
  const checkbox = element("input", { type: "checkbox", value: id, "aria-label": `compare ${title}` });
  checkbox.checked = selected.has(id);
  checkbox.addEventListener("change", () => {
    if (checkbox.checked && selected.size >= MAX_JOBS) checkbox.checked = false;
    else if (checkbox.checked) selected.add(id);
    else selected.delete(id);
    save();
  });
  return checkbox;
}

// Makes `button` open the comparison of the selected jobs, and adds a button that clears the selection.
export function bindCompareButton(button, extraParameters = () => []) {
  const clear = element("button", { type: "button" }, "Untick all");
  button.after(clear);
  clear.addEventListener("click", () => {
    selected = new Set();
    for (const checkbox of document.querySelectorAll('input[aria-label^="compare "]')) checkbox.checked = false;
    save();
    button.focus();
  });
  button.addEventListener("click", () =>
    window.location.assign(
      `/ui/compare?${new URLSearchParams([...[...selected].map((id) => ["job", id]), ...extraParameters()])}`,
    ),
  );
  renderers.push(() => {
    button.disabled = selected.size < 2;
    button.textContent = selected.size ? `Compare ${selected.size}` : "Compare";
    clear.hidden = !selected.size;
  });
  renderers.at(-1)();
}
