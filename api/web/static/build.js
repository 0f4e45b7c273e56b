// The live state of a build: its job's events, until it ends.
import { ask, element, FINISHED, progressText } from "./service.js";

const at = (name) => document.getElementById(`build-${name}`);
let source = null;

function show(job) {
  at("state").textContent = job.status || job.state;
  at("state").className = `state ${job.status || job.state}`;
  at("message").textContent = [job.reason?.replaceAll("_", " "), job.message, job.pending_reason].filter(Boolean).join(": ");
  at("message").className = job.state === "failed" ? "refused" : "";
  showProgress(job.state === "running" ? job.progress : null, FINISHED.has(job.state), job.state === "running" ? "starting" : "waiting for a worker");
}

function showProgress(progress, over = false, otherwise = "") {
  at("progress").hidden = at("text").hidden = over;
  if (progress) at("progress").value = progress.ratio;
  const rows = progress?.num_rows ? `${(progress.rows ?? 0).toLocaleString()} of ${progress.num_rows.toLocaleString()} rows` : "";
  at("text").textContent = progress ? [progressText(progress), rows].filter(Boolean).join(" · ") : otherwise;
}

// Shows the job in the page's build box and calls `ended` with it once it is over.
export async function follow(id, ended) {
  source?.close();
  at("log").replaceChildren();
  document.getElementById("build").hidden = false;
  const api = `/jobs/${encodeURIComponent(id)}`;
  let job = await ask(api);
  at("title").textContent = `Build of ${job.dataset}`;
  at("job").href = job.links.page;
  at("dataset").hidden = true;
  show(job);
  const events = source = new EventSource(`${api}/events`);
  const on = (kind, act) => events.addEventListener(kind, (event) => act(JSON.parse(event.data).body));
  on("state", (body) => { job = { ...job, ...body, status: body.state, pending_reason: null }; show(job); });
  on("progress", (body) => { if (job.state === "running") showProgress(body); });
  on("log", (body) => { at("log").append(element("li", { class: body.level }, body.message)); });
  on("end", async () => {
    events.close();
    job = await ask(api);
    show(job);
    if (job.state === "succeeded") {
      at("dataset").href = `/ui/datasets/${encodeURIComponent(job.dataset)}`;
      at("dataset").hidden = false;
    }
    ended(job);
  });
}
