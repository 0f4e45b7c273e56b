// API keys with their scopes; a new key is shown once. Below, the newest entries of the audit log.
import { callApi, element, formatTime, showError, fillTable } from "./service.js";

const byId = (name) => document.getElementById(name);
const form = byId("make");

function state(key) {
  if (key.revoked_at) return ["failed", "revoked"];
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return ["failed", "expired"];
  return ["succeeded", "valid"];
}

function revoke(key) {
  const button = element("button", { type: "button", class: "danger", "aria-label": `revoke ${key.name}` }, "Revoke");
  button.addEventListener("click", async () => {
    if (!window.confirm(`Revoke ${key.name}? Every request with it will be refused.`)) return;
    try {
      await callApi(`/keys/${key.id}`, { method: "DELETE" });
      await show();
    } catch (error) {
      showError(error);
    }
  });
  return button;
}

async function show() {
  try {
    const [{ items }, audit] = await Promise.all([callApi("/keys"), callApi("/audit?limit=50")]);
    byId("empty").hidden = items.length > 0;
    byId("keys").parentElement.hidden = !items.length;
    fillTable(
      byId("keys"),
      ["Name", "State", "Prefix", "Scopes", "Created", "Expires", "Last used", "Revoke"],
      items.map((key) => {
        const [kind, label] = state(key);
        return [
          key.name,
          element("span", { class: `state ${kind}` }, label),
          element("code", {}, `${key.prefix}…`),
          key.scopes.join(", "),
          formatTime(key.created_at),
          key.expires_at ? formatTime(key.expires_at) : "never",
          key.last_used_at ? formatTime(key.last_used_at) : "never",
          key.revoked_at ? "" : revoke(key),
        ];
      }),
    );
    byId("audit-section").hidden = !audit.items.length;
    fillTable(
      byId("audit"),
      ["Time", "Principal", "Action", "Target"],
      audit.items.map((one) => [formatTime(one.time), one.who, one.action, one.target]),
    );
    showError(null);
  } catch (error) {
    showError(error);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = new FormData(form),
    until = fields.get("expires_at");
  const body = {
    name: fields.get("name"),
    scopes: fields.getAll("scopes"),
    ...(until ? { expires_at: new Date(`${until}T23:59:59`).toISOString() } : {}),
  };
  try {
    const made = await callApi("/keys", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    byId("made-name").textContent = made.name;
    byId("token").textContent = made.key;
    byId("made").hidden = false;
    form.reset();
    await show();
    byId("made").focus();
  } catch (error) {
    showError(error);
  }
});
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("token").textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    window.getSelection().selectAllChildren(byId("token"));
    byId("copied").textContent = "Selected: copy it with the keyboard.";
  }
});
await show();
