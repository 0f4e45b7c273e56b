// What the pages know of each kind of job: its row of the server's table,
// which the page has as JSON (api/web/pages.py).
// `nested`: its training is the `base` of its spec; `form`: the kind whose form can hold its spec.
export const KINDS = JSON.parse(document.getElementById("page-kinds").textContent);

export const kindOf = (job) => KINDS[job.kind];
