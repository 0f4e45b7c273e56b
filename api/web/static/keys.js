// API keys: who may do what; a new one is shown once. Below, the newest changes of the audit log.
import { ask, element, moment, notice, table } from "./service.js";

const at = (name) => document.getElementById(name);
const make = at("make");

function state(key) {
  if (key.revoked_at) return ["failed", "revoked"];
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return ["failed", "expired"];
  return ["succeeded", "good"];
}

function revoke(key) {
  const button = element("button", { type: "button", class: "danger", "aria-label": `revoke ${key.name}` }, "Revoke");
  button.addEventListener("click", async () => {
    if (!window.confirm(`Revoke ${key.name}? Whatever uses it is refused from now on.`)) return;
    try { await ask(`/keys/${key.id}`, { method: "DELETE" }); await show(); } catch (error) { notice(error); }
  });
  return button;
}

async function show() {
  try {
    const [{ items }, audit] = await Promise.all([ask("/keys"), ask("/audit?limit=50")]);
    at("empty").hidden = items.length > 0;
    at("keys").parentElement.hidden = !items.length;
    table(at("keys"), ["Name", "State", "Begins with", "May", "Made", "Good until", "Last used", "Revoke"], items.map((key) => {
      const [kind, word] = state(key);
      return [key.name, element("span", { class: `state ${kind}` }, word), element("code", {}, `${key.prefix}…`), key.scopes.join(", "), moment(key.created_at), key.expires_at ? moment(key.expires_at) : "for ever", key.last_used_at ? moment(key.last_used_at) : "never", key.revoked_at ? "" : revoke(key)];
    }));
    at("audit-section").hidden = !audit.items.length;
    table(at("audit"), ["When", "Who", "What", "Of"], audit.items.map((one) => [moment(one.time), one.who, one.action, one.target]));
    notice(null);
  } catch (error) { notice(error); }
}

make.addEventListener("submit", async (event) => {
  event.preventDefault();
  const told = new FormData(make), until = told.get("expires_at");
  const body = { name: told.get("name"), scopes: told.getAll("scopes"), ...(until ? { expires_at: new Date(`${until}T23:59:59`).toISOString() } : {}) };
  try {
    const made = await ask("/keys", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    at("made-name").textContent = made.name;
    at("token").textContent = made.key;
    at("made").hidden = false;
    make.reset();
    await show();
    at("made").focus();
  } catch (error) { notice(error); }
});
at("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(at("token").textContent); at("copied").textContent = "Copied."; } catch { window.getSelection().selectAllChildren(at("token")); at("copied").textContent = "Selected: copy it with the keyboard."; }
});
await show();
