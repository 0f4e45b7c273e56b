// What the pages know of each kind of job: its row of the server's table, which is part of every page; `nested` says
// that its training is the `base` of its spec, and `form` names the kind whose form can hold its spec.
export const KINDS = JSON.parse(document.body.dataset.kinds);

export const kindOf = (job) => KINDS[job.kind];
