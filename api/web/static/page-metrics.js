// The metrics that the pages show, by the server's table: it writes them into the page (api/web/metrics.py).
export const METRICS = JSON.parse(document.getElementById("page-metrics").textContent);
