// The metrics on a job's page: which are requested, and how an event changes them.
const PREFIXES = ["val", "test/", "train", "step/", "time", "system"]; // one of several folds says train.1/…
const MAX_POINTS = 300;
export const METRICS_QUERY = `${PREFIXES.map((name) => `name=${name}`).join("&")}&max_points=${MAX_POINTS}`;

// Applies the values of a metrics event to `metrics` and to the job's best. Returns whether a series has become too
// long to draw, so that all must be requested again.
export function applyMetrics(metrics, job, { step, values, best, source }) {
  if (source) {
    metrics.baselines[source] = { ...metrics.baselines[source], ...values };
    return false;
  }
  Object.assign(metrics.latest, values);
  if (best) job.best = { ...job.best, epoch: step, value: values[job.best?.objective] ?? null, metrics: values };
  let tooLong = false;
  for (const [name, value] of Object.entries(values)) {
    if (!PREFIXES.some((prefix) => name.startsWith(prefix))) continue;
    const line = (metrics.series[name] ??= { step: [], value: [] });
    if (step > (line.step.at(-1) ?? 0)) {
      line.step.push(step);
      line.value.push(value);
    }
    tooLong ||= line.step.length > 2 * MAX_POINTS;
  }
  return tooLong;
}
