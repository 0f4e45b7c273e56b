// The page's event stream. It reconnects with back-off, and the page shows while the service cannot be reached.
const KINDS = ["state", "metrics", "log", "progress", "end"];

export function showOffline(offline) {
  const banner = document.getElementById("offline");
  if (banner.hidden === !offline) return;
  banner.hidden = !offline;
  banner.textContent = offline ? "The service cannot be reached. What you see may be out of date; trying again…" : "";
}

// Calls `onEvent(kind, data)` for every event, and `onReconnect()` at each retry and after it, since events may have
// been missed, among them the last one. Returns a function that stops.
export function followEvents(address, onEvent, onReconnect) {
  let source = null,
    retryTimer = null,
    offlineTimer = null,
    stopped = false,
    interrupted = false,
    retryDelay = 1000;
  function open() {
    source = new EventSource(address());
    source.addEventListener("open", () => {
      retryDelay = 1000;
      clearTimeout(offlineTimer);
      offlineTimer = null;
      showOffline(false);
      if (interrupted) onReconnect();
      interrupted = false;
    });
    for (const kind of KINDS)
      source.addEventListener(kind, (event) => {
        if (!stopped) onEvent(kind, JSON.parse(event.data));
      });
    source.addEventListener("error", () => {
      if (stopped) return;
      interrupted = true;
      source.close(); // EventSource does not retry a refused response: retry here, with back-off
      offlineTimer ??= setTimeout(() => showOffline(true), 1500);
      retryTimer = setTimeout(() => {
        onReconnect();
        open();
      }, retryDelay);
      retryDelay = Math.min(retryDelay * 1.6, 15000);
    });
  }
  open();
  return () => {
    stopped = true;
    clearTimeout(retryTimer);
    clearTimeout(offlineTimer);
    source.close();
  };
}

// `action` throttled to one call per `milliseconds`; the last call is never dropped.
export function throttle(action, milliseconds) {
  let retryTimer = null,
    last = 0;
  return () => {
    if (retryTimer !== null) return;
    retryTimer = setTimeout(
      () => {
        retryTimer = null;
        last = performance.now();
        action();
      },
      Math.max(0, last + milliseconds - performance.now()),
    );
  };
}
