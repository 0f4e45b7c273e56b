// The workers and the queued jobs.
import { showOffline } from "./stream.js";
import { callApi, formatDuration, element, formatTime, showError, fillTable } from "./service.js";

const byId = (name) => document.getElementById(name);
const REFRESH_SECONDS = 3;

async function show() {
  try {
    const [workers, queued] = await Promise.all([callApi("/workers"), callApi("/jobs?state=queued&limit=50")]);
    const ago = (time) => formatDuration(Math.max(0, Date.now() - Date.parse(time)) / 1000);
    const live = workers.items.filter((worker) => worker.live),
      busy = live.filter((worker) => worker.busy_with);
    const summary = `${live.length} live, ${busy.length} busy`;
    if (byId("count").textContent !== summary) byId("count").textContent = summary;
    fillTable(
      byId("workers"),
      ["Worker", "State", "Problem", "Queue", "Device", "Host", "Busy with", "Up since", "Last seen"],
      workers.items.map((worker) => [
        worker.name,
        element(
          "span",
          {
            class: `state ${worker.live && !worker.problem ? (worker.busy_with ? "running" : "succeeded") : "failed"}`,
          },
          !worker.live ? "gone" : worker.problem ? "takes no job" : worker.busy_with ? "busy" : "free",
        ),
        (worker.live && worker.problem) || "",
        worker.queue,
        worker.device,
        worker.host,
        worker.busy_with ? element("a", { href: `/ui/jobs/${worker.busy_with}` }, worker.busy_with.slice(-8)) : "",
        formatTime(worker.started_at),
        `${ago(worker.last_seen)} ago`,
      ]),
    );
    byId("empty").hidden = workers.items.length > 0;
    fillTable(
      byId("waiting"),
      ["Job", "Queue", "Position", "Waiting for", "Since"],
      queued.items.map((job) => [
        element("a", { href: job.links.page }, job.name || `${job.kind} ${job.id.slice(-8)}`),
        `${job.queue}, priority ${job.priority}`,
        job.queue_position === null ? "–" : String(job.queue_position + 1),
        job.pending_reason ?? "",
        formatTime(job.created_at),
      ]),
    );
    byId("none").hidden = queued.items.length > 0;
    byId("waiting").hidden = !queued.items.length;
    showError(null);
    showOffline(false);
  } catch (error) {
    if (error instanceof TypeError) showOffline(true);
    else showError(error);
  }
}

await show();
setInterval(() => {
  if (!document.hidden) show();
}, REFRESH_SECONDS * 1000);
