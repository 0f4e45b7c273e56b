// Who is there to work, and what waits for them.
import { away } from "./stream.js";
import { ask, duration, element, moment, notice, table } from "./service.js";

const at = (name) => document.getElementById(name);
const SECONDS = 3;

async function show() {
  try {
    const [workers, queued] = await Promise.all([ask("/workers"), ask("/jobs?state=queued&limit=50")]);
    const ago = (time) => duration((Date.now() - Date.parse(time)) / 1000) || "now";
    const live = workers.items.filter((worker) => worker.live), busy = live.filter((worker) => worker.busy_with);
    const words = `${live.length} live, ${busy.length} busy`;
    if (at("count").textContent !== words) at("count").textContent = words;
    table(at("workers"), ["Worker", "State", "Queue", "Device", "Host", "Busy with", "Up since", "Last seen"], workers.items.map((worker) => [
      worker.name, element("span", { class: `state ${worker.live ? (worker.busy_with ? "running" : "succeeded") : "failed"}` }, worker.live ? (worker.busy_with ? "busy" : "free") : "gone"),
      worker.queue, worker.device, worker.host, worker.busy_with ? element("a", { href: `/ui/jobs/${worker.busy_with}` }, worker.busy_with.slice(-8)) : "", moment(worker.started_at), `${ago(worker.last_seen)} ago`,
    ]));
    at("empty").hidden = workers.items.length > 0;
    table(at("waiting"), ["Job", "Queue", "Position", "Waits for", "Since"], queued.items.map((job) => [
      element("a", { href: job.links.page }, job.name || `${job.kind} ${job.id.slice(-8)}`), `${job.queue}, priority ${job.priority}`, job.queue_position === null ? "–" : String(job.queue_position + 1), job.pending_reason ?? "", moment(job.created_at),
    ]));
    at("none").hidden = queued.items.length > 0;
    at("waiting").hidden = !queued.items.length;
    notice(null);
    away(false);
  } catch (error) {
    if (error instanceof TypeError) away(true); else notice(error);
  }
}

await show();
setInterval(() => { if (!document.hidden) show(); }, SECONDS * 1000);
