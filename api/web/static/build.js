// The live state of a dataset's build, by its job's events.
import { callApi, element, FINISHED, progressText, showError } from "./service.js";
import { followEvents } from "./stream.js";

const byId = (name) => document.getElementById(`build-${name}`);
let stop = null;

function show(job) {
  byId("state").textContent = job.status || job.state;
  byId("state").className = `state ${job.status || job.state}`;
  byId("message").textContent = [job.reason?.replaceAll("_", " "), job.message, job.pending_reason]
    .filter(Boolean)
    .join(": ");
  byId("message").className = job.state === "failed" ? "refused" : "";
  showProgress(
    job.state === "running" ? job.progress : null,
    FINISHED.has(job.state),
    job.state === "running" ? "starting" : "waiting for a worker",
  );
}

function showProgress(progress, finished = false, fallback = "") {
  byId("progress").hidden = byId("text").hidden = finished;
  if (progress) byId("progress").value = progress.ratio;
  const rows = progress?.num_rows
    ? `${(progress.rows ?? 0).toLocaleString()} of ${progress.num_rows.toLocaleString()} rows`
    : "";
  byId("text").textContent = progress ? [progressText(progress), rows].filter(Boolean).join(" · ") : fallback;
}

// Shows the job in the page's build box and calls `onEnd` with it when it has finished.
export async function followBuild(id, onEnd) {
  stop?.();
  byId("log").replaceChildren();
  document.getElementById("build").hidden = false;
  const api = `/jobs/${encodeURIComponent(id)}`;
  let job = await callApi(api),
    lastSeq = 0;
  byId("title").textContent = `Build of ${job.dataset}`;
  byId("job").href = job.links.page;
  byId("dataset").hidden = true;
  show(job);
  const handlers = {
    state(body) {
      job = { ...job, ...body, status: body.state, pending_reason: null };
      show(job);
    },
    progress(body) {
      if (job.state === "running") showProgress(body);
    },
    log(body) {
      byId("log").append(element("li", { class: body.level }, body.message));
    },
    async end() {
      stop();
      job = await callApi(api);
      show(job);
      if (job.state === "succeeded") {
        byId("dataset").href = `/ui/datasets/${encodeURIComponent(job.dataset)}`;
        byId("dataset").hidden = false;
      }
      onEnd(job);
    },
  };
  const onEvent = async (kind, { seq, body }) => {
    if (seq) lastSeq = seq;
    await handlers[kind]?.(body);
  };
  stop = followEvents(
    () => `${api}/events?after=${lastSeq}`,
    (kind, data) => onEvent(kind, data).catch(showError),
    () => {}, // the events missed are sent again
  );
}
