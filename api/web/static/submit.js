// Submit: the form of the spec, its plan before it is sent, and the same call for a program.
import { size } from "./amounts.js";
import { Form } from "./form.js";
import { ask, duration, element, facts, notice, once } from "./service.js";

const at = (name) => document.getElementById(name);
const NAMES = { train: "TrainSpec", hpo: "HpoSpec", pretrain: "PretrainSpec", ensemble: "EnsembleSpec" };
const NESTED = new Set(["hpo", "ensemble"]);  // what they are made of stands under base
const wanted = new URLSearchParams(window.location.search);
const { components: { schemas } } = await ask("/openapi.json");
const choice = at("submit");
let form = null, kind = "train", key = null;

function build(next) {
  const before = form?.body();
  const base = before && (NESTED.has(kind) ? before.base : before);
  kind = next;
  form = new Form(at("fields"), schemas, NAMES[kind]);
  if (base) form.fill(NESTED.has(kind) ? { base } : base);
  changed();
}

function changed() {
  key = null;
  form.mark();
  const body = form.body(), origin = window.location.origin;
  at("curl").textContent = `curl -X POST ${origin}/jobs/${kind} \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(body, null, 1).replaceAll("'", "'\\''")}'`;
  at("python").textContent = `from client.sdk import Client\n\nwith Client("${origin}") as service:\n    job = service.${kind}(${python(body).replaceAll("\n", "\n    ")})\n    print(job.wait().state)`;
}

// As Python writes it.
function python(value, depth = 0) {
  const inner = " ".repeat(4 * (depth + 1)), end = " ".repeat(4 * depth);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((one) => python(one, depth)).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const parts = Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, depth + 1)},`);
  return parts.length ? `{\n${parts.join("\n")}\n${end}}` : "{}";
}

function refuse(error) {
  const others = form.blame(error?.problem?.errors ?? []);
  const placed = (error?.problem?.errors?.length ?? 0) - others.length;
  at("refusal").hidden = !error;
  if (!error) return;
  at("refusal").replaceChildren(...[others.length || !placed ? error.message : `${placed === 1 ? "One field is" : `${placed} fields are`} wrong.`, ...others.map((one) => `${one.pointer ?? one.parameter ?? ""} ${one.detail}`)].map((line) => element("p", {}, line)));
  if (!placed) at("refusal").focus();
}

function call(address, headers = {}) {
  return ask(address, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(form.body()) });
}

async function during(words, act) {
  at("busy").textContent = words;
  at("check").disabled = at("send").disabled = true;
  try { await act(); } catch (error) { at("plan-section").hidden = true; refuse(error); } finally { at("check").disabled = at("send").disabled = false; at("busy").textContent = ""; }
}

function show(plan) {
  refuse(null);
  const one = plan.trial ?? plan;
  at("warnings").replaceChildren(...plan.warnings.map((warning) => element("li", { class: "warning" }, warning)));
  facts(at("plan"), [
    ["Trials", plan.num_trials?.toLocaleString()],
    ["Parameters", one.num_parameters.toLocaleString()],
    ["Days", `${one.num_train_days} training, ${one.num_val_days} validation, ${one.num_test_days} test${one.num_folds > 1 ? `, ${one.num_folds} folds` : ""}${one.num_members > 1 ? `; ${one.num_members} seeds` : ""}`],
    ["Epochs", `${one.epochs} of ${one.steps_per_epoch.toLocaleString()} steps; ${one.days_per_step} whole days a step, about ${one.samples_per_epoch.toLocaleString()} samples an epoch`],
    ["About", plan.estimated_seconds === null ? "no estimate: no job with this network has ended on this queue yet" : duration(plan.estimated_seconds)],
    ["Disk", size(one.estimated_bytes)],
    ["Queue", `${one.queue}, ${one.queue_position} ahead`],
    ["Low end", plan.low && JSON.stringify(plan.low)], ["High end", plan.high && JSON.stringify(plan.high)],
    ["Spec digest", plan.spec_digest], ["Fingerprint", one.dataset_fingerprint],
  ]);
  at("plan-section").hidden = false;
  at("plan-section").focus();
}

at("check").addEventListener("click", () => during("Planning…", async () => show(await call(`/jobs/${kind}?dry_run=true`))));
choice.addEventListener("submit", (event) => {
  event.preventDefault();
  during("Sending…", async () => {
    key ??= once();  // the same body sent again is the same job
    const job = await call(`/jobs/${kind}`, { "Idempotency-Key": key });
    window.location.assign(job.links.page);
  });
});
at("fields").addEventListener("input", changed);
at("only").addEventListener("change", () => at("fields").classList.toggle("only", at("only").checked));
for (const radio of choice.elements.kind) radio.addEventListener("change", () => build(radio.value));
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(at(button.dataset.copy).textContent); at("copied").textContent = "Copied."; } catch { window.getSelection().selectAllChildren(at(button.dataset.copy)); at("copied").textContent = "Selected: copy it with the keyboard."; }
});

ask("/datasets?limit=200").then(({ items }) => at("datasets").append(...[...new Set(items.map((one) => one.name))].map((name) => element("option", { value: name }))), notice);
if (wanted.get("from")) {
  try {
    const source = await ask(`/jobs/${encodeURIComponent(wanted.get("from"))}`);
    kind = NAMES[source.kind] ? source.kind : "train";
    build(kind);
    for (const radio of choice.elements.kind) radio.checked = radio.value === kind;
    form.fill(source.spec);
    at("from").hidden = false;
    at("from").replaceChildren("The settings of ", element("a", { href: source.links.page }, source.name || source.id), ": change what you like.");
  } catch (error) { notice(error); }
}
if (!form) build(NAMES[wanted.get("kind")] ? wanted.get("kind") : "train");
for (const radio of choice.elements.kind) radio.checked = radio.value === kind;
if (wanted.get("dataset")) form.set(NESTED.has(kind) ? "/base/dataset" : "/dataset", wanted.get("dataset"));
changed();
at("fields").dataset.ready = "true";
