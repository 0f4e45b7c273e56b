import { count, size } from "./format.js";
import { followBuild } from "./build.js";
import { callApi, element, fillFacts, formatTime, showError } from "./service.js";

const byId = (name) => document.getElementById(name);
const form = byId("add");
const FILES = ["file", "universe", "market"];
const PAGE = 50;
let shown = PAGE;
let activeRequest = null;

async function showDatasets() {
  const items = [];
  let cursor = null;
  do {
    const limit = String(Math.min(shown - items.length, 200));
    const page = await callApi(`/datasets?${new URLSearchParams({ limit, ...(cursor ? { cursor } : {}) })}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < shown);
  byId("rows").replaceChildren(...items.map(row));
  byId("empty").hidden = items.length > 0;
  byId("more").hidden = !cursor;
}

function row(item) {
  const cell = (value) => element("td", { class: "number" }, value);
  const warnings = item.num_warnings
    ? `${item.num_warnings} ${item.num_warnings === 1 ? "warning" : "warnings"}`
    : null;
  return element(
    "tr",
    {},
    element(
      "th",
      { scope: "row" },
      element("a", { href: item.page }, item.name),
      element("span", { class: "quiet" }, `version ${item.version}`),
      warnings ? element("span", { class: "warned" }, warnings) : null,
    ),
    cell(count(item.num_rows)),
    cell(count(item.num_codes)),
    element(
      "td",
      {},
      item.days ? `${item.days[0]} to ${item.days[1]}` : "–",
      element("span", { class: "quiet" }, `${count(item.num_days)} trading days`),
    ),
    cell(count(item.num_features)),
    element("td", {}, item.horizons.join(", ")),
    cell(size(item.size_bytes)),
    element("td", {}, formatTime(item.created_at)),
  );
}

// -- the form

function showSourceFields() {
  for (const group of form.querySelectorAll("[data-source]")) {
    group.hidden = group.dataset.source !== form.elements.source.value;
    for (const field of group.querySelectorAll("input, select")) field.disabled = group.hidden;
  }
}

function readMore() {
  const text = form.elements.more.value.trim();
  if (!text) return {};
  const body = JSON.parse(text);
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw new Error("not an object");
  return body;
}

function readSpec() {
  const value = (name) => form.elements[name].value.trim();
  const side = (name) => (value(name) ? { file: value(name) } : null);
  const body = { name: value("name"), horizons: value("horizons").split(",").map(Number), ...readMore() };
  if (form.elements.source.value === "path") {
    for (const role of ["universe", "market"])
      if (side(`${role}_path`)) body[role] = { ...body[role], ...side(`${role}_path`) };
    return { ...body, path: value("path") };
  }
  if (form.elements.source.value === "planted") {
    const planted = Object.fromEntries(
      ["num_codes", "num_days", "num_features", "signal", "seed"].map((name) => [name, Number(value(name))]),
    );
    return { ...body, planted: { ...planted, mode: value("mode") } };
  }
  for (const role of ["universe", "market"])
    if (form.elements[role].files.length) body[role] = { ...body[role], file: role };
  return body;
}

function requestBody(body) {
  if (form.elements.source.value !== "upload") return [JSON.stringify(body), "application/json"];
  const parts = new FormData();
  parts.append("spec", JSON.stringify(body));
  for (const role of FILES) for (const file of form.elements[role].files) parts.append(role, file);
  return [parts, null];
}

// XMLHttpRequest, because fetch does not say how much of a body has been sent.
function send(address, body) {
  const [data, type] = requestBody(body);
  const request = new XMLHttpRequest();
  activeRequest = request;
  const finished = new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", (event) => showSent(event.loaded, event.total));
    request.upload.addEventListener("load", () => showSent(null));
    request.addEventListener("load", () => {
      let response = {};
      try {
        response = JSON.parse(request.responseText || "{}");
      } catch {
        if (request.status < 400) {
          reject(new Error("this response is not from the service: is there a proxy in between?"));
          return;
        }
      } // a proxy's own page
      if (request.status === 401) document.getElementById("login").hidden = false;
      if (request.status < 400) resolve(response);
      else
        reject(
          Object.assign(new Error(response.detail || `the service returned ${request.status}`), {
            errors: response.errors,
          }),
        );
    });
    request.addEventListener("error", () =>
      reject(
        new Error(
          "the connection was lost before the service responded: is the service up, and the file not too large for it?",
        ),
      ),
    );
    request.addEventListener("abort", () =>
      reject(
        new Error(
          byId("sent").hasAttribute("value")
            ? "stopped: nothing was registered"
            : "stopped after the whole file was sent: see in the list of jobs whether it is being built",
        ),
      ),
    );
  });
  request.open("POST", address);
  request.setRequestHeader("Accept", "application/json");
  if (type) request.setRequestHeader("Content-Type", type);
  request.send(data);
  return finished;
}

function showSent(loaded, total) {
  byId("sending").hidden = false;
  if (loaded === null) byId("sent").removeAttribute("value");
  else byId("sent").value = total ? loaded / total : 0;
  byId("sent-text").textContent =
    loaded === null ? "sent; the service is checking it" : `${size(loaded)} of ${size(total)} sent`;
}

function showRefusal(error) {
  const rest = (error.errors || [])
    .slice(1)
    .map((one) => element("li", {}, `${one.pointer || one.parameter || ""} ${one.detail}`));
  byId("refusal").replaceChildren(element("p", {}, error.message), rest.length ? element("ul", {}, ...rest) : "");
  byId("refusal").hidden = false;
}

function showPlan(plan) {
  const inspection = plan.inspection;
  const roles = Object.entries(inspection.columns || {}).map(([role, column]) =>
    role === column ? role : `${role} from “${column}”`,
  );
  const filled = inspection.num_filled_rows ? `, ${count(inspection.num_filled_rows)} of them filled halt days` : "";
  const list = element("dl", {});
  fillFacts(list, [
    ["Read as", inspection.kind],
    ["Columns", roles.join(", ")],
    [
      "Targets",
      Object.entries(inspection.targets || {})
        .map(([horizon, column]) => `${horizon} d from “${column}”`)
        .join(", "),
    ],
    ["Rows", `${count(inspection.num_rows)}${filled}`],
    ["Stocks", count(inspection.num_codes)],
    [
      "Trading days",
      `${count(inspection.num_days)}, ${inspection.profile?.first_day} to ${inspection.profile?.last_day}`,
    ],
    [
      "Features",
      `${count(inspection.feature_names?.length)} across stocks, ${count(inspection.market_names?.length)} market-wide`,
    ],
    ["On disk", `about ${size(inspection.size_bytes)}`],
    ["Fingerprint", inspection.fingerprint],
  ]);
  const warnings = [
    ...plan.warnings,
    ...(inspection.profile?.warnings || []),
    ...(inspection.named_like_targets || []).map(
      (name) => `column “${name}” is named like a target: the build refuses it unless allow_leaks lists it`,
    ),
  ];
  const registered = plan.registered.length
    ? element(
        "p",
        { class: "known" },
        `This content is registered already, as ${plan.registered.join(", ")}: registering it again builds nothing.`,
      )
    : null;
  byId("plan").replaceChildren(
    ...[
      element("h3", {}, `What would be built as “${plan.spec.name}”`),
      registered,
      list,
      warnings.length ? element("h4", {}, "Warnings") : null,
      warnings.length
        ? element("ul", { class: "warnings" }, ...warnings.map((text) => element("li", {}, text)))
        : element("p", { class: "quiet" }, "No warnings."),
    ].filter(Boolean),
  );
  byId("plan").hidden = false;
  byId("plan").focus();
}

async function submit(check) {
  showError(null);
  for (const box of ["refusal", "plan", "sending", "build"]) byId(box).hidden = true;
  let body;
  try {
    body = readSpec();
  } catch (error) {
    showRefusal(new Error(`More settings: this is not a JSON object (${error.message})`));
    return;
  }
  const buttons = [...form.querySelectorAll("button[type=submit]")];
  for (const button of buttons) button.disabled = true;
  byId("stop").hidden = false;
  if (form.elements.source.value === "upload")
    showSent(
      0,
      [...form.elements.file.files].reduce((sum, file) => sum + file.size, 0),
    );
  else showSent(null);
  try {
    const response = await send(check ? "/datasets?dry_run=true" : "/datasets", body);
    byId("sending").hidden = true;
    if (check) showPlan(response);
    else await followBuild(response.id, () => showDatasets().catch(showError));
  } catch (error) {
    byId("sending").hidden = true;
    showRefusal(error);
  } finally {
    byId("stop").hidden = true;
    for (const button of buttons) button.disabled = false;
  }
}

form.addEventListener("change", (event) => {
  if (event.target.name === "source") showSourceFields();
});
form.elements.file.addEventListener("change", () => {
  const [file] = form.elements.file.files;
  if (file && !form.elements.name.value)
    form.elements.name.value = file.name
      .replace(/\..*$/, "")
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .replace(/^[^A-Za-z0-9]+/, "")
      .slice(0, 80);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(event.submitter?.value !== "register");
});
byId("stop").addEventListener("click", () => activeRequest?.abort());
byId("more").addEventListener("click", () => {
  shown += PAGE;
  showDatasets().catch(showError);
});
showSourceFields();
await showDatasets().catch(showError);
setInterval(() => {
  if (!document.hidden) showDatasets().catch(showError);
}, 10_000);
