import { count, size } from "./amounts.js";
import { follow } from "./build.js";
import { ask, element, facts, moment, notice } from "./service.js";

const at = (name) => document.getElementById(name);
const form = at("add");
const FILES = ["file", "universe", "market"];
const PAGE = 50;
let shown = PAGE;
let sending = null;

async function list() {
  const items = [];
  let cursor = null;
  do {
    const page = await ask(`/datasets?${new URLSearchParams({ limit: String(Math.min(shown - items.length, 200)), ...(cursor ? { cursor } : {}) })}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < shown);
  at("rows").replaceChildren(...items.map(row));
  at("empty").hidden = items.length > 0;
  at("more").hidden = !cursor;
}

function row(item) {
  const cell = (value) => element("td", { class: "number" }, value);
  const warnings = item.num_warnings ? `${item.num_warnings} ${item.num_warnings === 1 ? "warning" : "warnings"}` : null;
  return element(
    "tr", {},
    element("th", { scope: "row" }, element("a", { href: item.page }, item.name), element("span", { class: "quiet" }, `version ${item.version}`), warnings ? element("span", { class: "warned" }, warnings) : null),
    cell(count(item.num_rows)), cell(count(item.num_codes)),
    element("td", {}, item.days ? `${item.days[0]} to ${item.days[1]}` : "–", element("span", { class: "quiet" }, `${count(item.num_days)} trading days`)),
    cell(count(item.num_features)), element("td", {}, item.horizons.join(", ")), cell(size(item.size_bytes)), element("td", {}, moment(item.created_at)),
  );
}

// -- the form

function choose() {
  for (const group of form.querySelectorAll("[data-source]")) {
    group.hidden = group.dataset.source !== form.elements.source.value;
    for (const field of group.querySelectorAll("input, select")) field.disabled = group.hidden;
  }
}

function more() {
  const text = form.elements.more.value.trim();
  if (!text) return {};
  const body = JSON.parse(text);
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw new Error("not an object");
  return body;
}

function spec() {
  const value = (name) => form.elements[name].value.trim();
  const side = (name) => (value(name) ? { file: value(name) } : null);
  const body = { name: value("name"), horizons: value("horizons").split(",").map(Number), ...more() };
  if (form.elements.source.value === "path") {
    for (const role of ["universe", "market"]) if (side(`${role}_path`)) body[role] = { ...body[role], ...side(`${role}_path`) };
    return { ...body, path: value("path") };
  }
  if (form.elements.source.value === "planted") {
    const planted = Object.fromEntries(["num_codes", "num_days", "num_features", "signal", "seed"].map((name) => [name, Number(value(name))]));
    return { ...body, planted: { ...planted, mode: value("mode") } };
  }
  for (const role of ["universe", "market"]) if (form.elements[role].files.length) body[role] = { ...body[role], file: role };
  return body;
}

function content(body) {
  if (form.elements.source.value !== "upload") return [JSON.stringify(body), "application/json"];
  const parts = new FormData();
  parts.append("spec", JSON.stringify(body));
  for (const role of FILES) for (const file of form.elements[role].files) parts.append(role, file);
  return [parts, null];
}

// XMLHttpRequest, because fetch does not say how much of a body has been sent.
function send(address, body) {
  const [data, type] = content(body);
  const request = new XMLHttpRequest();
  sending = request;
  const over = new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", (event) => showSent(event.loaded, event.total));
    request.upload.addEventListener("load", () => showSent(null));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText || "{}"); } catch { if (request.status < 400) { reject(new Error("the answer is not the service's: is a proxy in between?")); return; } }  // a proxy's own page
      if (request.status === 401) document.getElementById("login").hidden = false;
      if (request.status < 400) resolve(answer); else reject(Object.assign(new Error(answer.detail || `the service answers ${request.status}`), { errors: answer.errors }));
    });
    request.addEventListener("error", () => reject(new Error("the connection was lost before the service answered: is the service up, and the file not too large for it?")));
    request.addEventListener("abort", () => reject(new Error(at("sent").hasAttribute("value") ? "stopped: nothing was registered" : "stopped when all of it had been sent: look into the list of jobs whether it is being built")));
  });
  request.open("POST", address);
  request.setRequestHeader("Accept", "application/json");
  if (type) request.setRequestHeader("Content-Type", type);
  request.send(data);
  return over;
}

function showSent(loaded, total) {
  at("sending").hidden = false;
  if (loaded === null) at("sent").removeAttribute("value"); else at("sent").value = total ? loaded / total : 0;
  at("sent-text").textContent = loaded === null ? "sent; the service is looking at it" : `${size(loaded)} of ${size(total)} sent`;
}

function refuse(error) {
  const rest = (error.errors || []).slice(1).map((one) => element("li", {}, `${one.pointer || one.parameter || ""} ${one.detail}`));
  at("refusal").replaceChildren(element("p", {}, error.message), rest.length ? element("ul", {}, ...rest) : "");
  at("refusal").hidden = false;
}

function showPlan(plan) {
  const found = plan.inspection;
  const roles = Object.entries(found.columns || {}).map(([role, column]) => (role === column ? role : `${role} from “${column}”`));
  const list = element("dl", {});
  facts(list, [
    ["Read as", found.kind], ["Columns", roles.join(", ")],
    ["Targets", Object.entries(found.targets || {}).map(([horizon, column]) => `${horizon} d from “${column}”`).join(", ")],
    ["Rows", `${count(found.num_rows)}${found.num_filled_rows ? `, ${count(found.num_filled_rows)} of them filled halt days` : ""}`],
    ["Stocks", count(found.num_codes)], ["Trading days", `${count(found.num_days)}, ${found.profile?.first_day} to ${found.profile?.last_day}`],
    ["Features", `${count(found.feature_names?.length)} across stocks, ${count(found.market_names?.length)} market-wide`],
    ["On disk", `about ${size(found.size_bytes)}`], ["Fingerprint", found.fingerprint],
  ]);
  const warnings = [...plan.warnings, ...(found.profile?.warnings || []), ...(found.named_like_targets || []).map((name) => `column “${name}” is named like a target: the build refuses it unless allow_leaks lists it`)];
  const known = plan.registered.length ? element("p", { class: "known" }, `This content is registered already, as ${plan.registered.join(", ")}: registering it again builds nothing.`) : null;
  at("plan").replaceChildren(
    ...[element("h3", {}, `What would be built as “${plan.spec.name}”`), known, list,
      warnings.length ? element("h4", {}, "Warnings") : null, warnings.length ? element("ul", { class: "warnings" }, ...warnings.map((words) => element("li", {}, words))) : element("p", { class: "quiet" }, "No warnings."),
    ].filter(Boolean),
  );
  at("plan").hidden = false;
  at("plan").focus();
}

async function submit(check) {
  notice(null);
  for (const box of ["refusal", "plan", "sending", "build"]) at(box).hidden = true;
  let body;
  try { body = spec(); } catch (error) { refuse(new Error(`More settings: this is not a JSON object (${error.message})`)); return; }
  const buttons = [...form.querySelectorAll("button[type=submit]")];
  for (const button of buttons) button.disabled = true;
  at("stop").hidden = false;
  if (form.elements.source.value === "upload") showSent(0, [...form.elements.file.files].reduce((sum, file) => sum + file.size, 0));
  else showSent(null);
  try {
    const answer = await send(check ? "/datasets?dry_run=true" : "/datasets", body);
    at("sending").hidden = true;
    if (check) showPlan(answer); else await follow(answer.id, () => list().catch(notice));
  } catch (error) {
    at("sending").hidden = true;
    refuse(error);
  } finally {
    at("stop").hidden = true;
    for (const button of buttons) button.disabled = false;
  }
}

form.addEventListener("change", (event) => { if (event.target.name === "source") choose(); });
form.elements.file.addEventListener("change", () => {
  const [file] = form.elements.file.files;
  if (file && !form.elements.name.value) form.elements.name.value = file.name.replace(/\..*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 80);
});
form.addEventListener("submit", (event) => { event.preventDefault(); submit(event.submitter?.value !== "register"); });
at("stop").addEventListener("click", () => sending?.abort());
at("more").addEventListener("click", () => { shown += PAGE; list().catch(notice); });
choose();
await list().catch(notice);
setInterval(() => { if (!document.hidden) list().catch(notice); }, 10_000);
