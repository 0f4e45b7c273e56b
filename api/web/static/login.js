// Log-in and log-out. The API key is exchanged for an HttpOnly session cookie; the page does not keep the key.
import { showError } from "./service.js";

async function session(method, body) {
  const response = await fetch("/session", {
    method,
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || `log-in: ${response.status}`);
  if (method === "POST") localStorage.setItem("session", "begun");
  else localStorage.removeItem("session");
  window.location.reload();
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  session("POST", { key: document.getElementById("key").value.trim() }).catch(showError);
});
document.getElementById("logout").hidden = !localStorage.getItem("session");
document.getElementById("logout").addEventListener("click", () => session("DELETE").catch(showError));
