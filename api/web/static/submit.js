// Submit: the form of a spec, its plan (dry run), and the same call as curl and Python.
import { size } from "./format.js";
import { curlCommand, pythonProgram } from "./snippets.js";
import { Form } from "./form.js";
import { KINDS } from "./page-kinds.js";
import { callApi, formatDuration, element, fillFacts, showError, newIdempotencyKey } from "./service.js";

const byId = (name) => document.getElementById(name);
const query = new URLSearchParams(window.location.search);
const {
  components: { schemas },
} = await callApi("/openapi.json");
const choice = byId("submit");
let form = null,
  kind = choice.elements.kind[0].value,
  key = null;

function buildForm(next) {
  const before = form?.body();
  const base = before && (KINDS[kind].nested ? before.base : before);
  kind = next;
  form = new Form(byId("fields"), schemas, KINDS[kind].spec);
  if (base) form.fill(KINDS[kind].nested ? { base } : base);
  onChange();
}

function onChange() {
  key = null;
  form.mark();
  byId("curl").textContent = curlCommand(window.location.origin, kind, form.body());
  byId("python").textContent = pythonProgram(window.location.origin, kind, form.body());
}

function showRefusal(error) {
  const others = form.showErrors(error?.problem?.errors ?? []);
  const numShown = (error?.problem?.errors?.length ?? 0) - others.length;
  byId("refusal").hidden = !error;
  if (!error) return;
  byId("refusal").replaceChildren(
    ...[
      others.length || !numShown
        ? error.message
        : `${numShown === 1 ? "One field is" : `${numShown} fields are`} wrong.`,
      ...others.map((one) => `${one.pointer ?? one.parameter ?? ""} ${one.detail}`),
    ].map((line) => element("p", {}, line)),
  );
  if (!numShown) byId("refusal").focus();
}

function callSubmit(address, headers = {}) {
  return callApi(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(form.body()),
  });
}

async function withBusy(message, action) {
  byId("busy").textContent = message;
  byId("check").disabled = byId("send").disabled = true;
  try {
    await action();
  } catch (error) {
    byId("plan-section").hidden = true;
    showRefusal(error);
  } finally {
    byId("check").disabled = byId("send").disabled = false;
    byId("busy").textContent = "";
  }
}

function show(plan) {
  showRefusal(null);
  const one = plan.trial ?? plan;
  const folds = one.num_folds > 1 ? `, ${one.num_folds} folds` : "";
  const members = one.num_members > 1 ? `; ${one.num_members} seeds` : "";
  byId("warnings").replaceChildren(...plan.warnings.map((warning) => element("li", { class: "warning" }, warning)));
  fillFacts(byId("plan"), [
    ["Trials", plan.num_trials?.toLocaleString()],
    ["Parameters", one.num_parameters.toLocaleString()],
    [
      "Days",
      `${one.num_train_days} training, ${one.num_val_days} validation, ${one.num_test_days} test${folds}${members}`,
    ],
    [
      "Epochs",
      `${one.epochs} of ${one.steps_per_epoch.toLocaleString()} steps; ${one.days_per_step} whole days a step, ` +
        `about ${one.samples_per_epoch.toLocaleString()} samples an epoch`,
    ],
    [
      "About",
      plan.estimated_seconds === null
        ? "no estimate: no job with this network has ended on this queue yet"
        : formatDuration(plan.estimated_seconds),
    ],
    ["Disk", size(one.estimated_bytes)],
    ["Queue", `${one.queue}, ${one.queue_position} ahead`],
    ["Low end", plan.low && JSON.stringify(plan.low)],
    ["High end", plan.high && JSON.stringify(plan.high)],
    ["Spec digest", plan.spec_digest],
    ["Fingerprint", one.dataset_fingerprint],
  ]);
  byId("plan-section").hidden = false;
  byId("plan-section").focus();
}

byId("check").addEventListener("click", () =>
  withBusy("Planning…", async () => show(await callSubmit(`/jobs/${kind}?dry_run=true`))),
);
choice.addEventListener("submit", (event) => {
  event.preventDefault();
  withBusy("Sending…", async () => {
    key ??= newIdempotencyKey(); // the same body sent again is the same job
    const job = await callSubmit(`/jobs/${kind}`, { "Idempotency-Key": key });
    window.location.assign(job.links.page);
  });
});
byId("fields").addEventListener("input", onChange);
byId("only").addEventListener("change", () => byId("fields").classList.toggle("only", byId("only").checked));
for (const radio of choice.elements.kind) radio.addEventListener("change", () => buildForm(radio.value));
for (const button of document.querySelectorAll("[data-copy]"))
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(byId(button.dataset.copy).textContent);
      byId("copied").textContent = "Copied.";
    } catch {
      window.getSelection().selectAllChildren(byId(button.dataset.copy));
      byId("copied").textContent = "Selected: copy it with the keyboard.";
    }
  });

callApi("/datasets?limit=200").then(
  ({ items }) =>
    byId("datasets").append(
      ...[...new Set(items.map((one) => one.name))].map((name) => element("option", { value: name })),
    ),
  showError,
);
if (query.get("from")) {
  try {
    const source = await callApi(`/jobs/${encodeURIComponent(query.get("from"))}`);
    kind = KINDS[source.kind].form ?? kind;
    buildForm(kind);
    for (const radio of choice.elements.kind) radio.checked = radio.value === kind;
    form.fill(source.spec);
    byId("from").hidden = false;
    byId("from").replaceChildren(
      "The settings of ",
      element("a", { href: source.links.page }, source.name || source.id),
      ": change what you like.",
    );
  } catch (error) {
    showError(error);
  }
}
if (!form) buildForm(KINDS[query.get("kind")]?.form ?? kind);
for (const radio of choice.elements.kind) radio.checked = radio.value === kind;
if (query.get("dataset")) form.set(KINDS[kind].nested ? "/base/dataset" : "/dataset", query.get("dataset"));
onChange();
byId("fields").dataset.ready = "true";
