// One event stream a page. It comes back by itself after the service was away, and the page says so meanwhile.
const KINDS = ["state", "metrics", "log", "progress", "end"];
const banner = document.getElementById("offline");

export function away(is) {
  if (banner.hidden === !is) return;
  banner.hidden = !is;
  banner.textContent = is ? "The service cannot be reached. What you see may be old; trying again…" : "";
}

// `act(kind, data)` for every event; `back()` in and after an interruption, when things may have happened unseen: the
// last of them may be the end, after which no stream opens again.
export function follow(address, act, back) {
  let source = null, timer = null, silence = null, over = false, lost = false, pause = 1000;
  function open() {
    source = new EventSource(address());
    source.addEventListener("open", () => { pause = 1000; clearTimeout(silence); silence = null; away(false); if (lost) back(); lost = false; });
    for (const kind of KINDS) source.addEventListener(kind, (event) => { if (!over) act(kind, JSON.parse(event.data)); });
    source.addEventListener("error", () => {
      if (over) return;
      lost = true;
      source.close();  // a refused answer would end it for good: we come back ourselves, ever more slowly
      silence ??= setTimeout(() => away(true), 1500);
      timer = setTimeout(() => { back(); open(); }, pause);
      pause = Math.min(pause * 1.6, 15000);
    });
  }
  open();
  return () => { over = true; clearTimeout(timer); clearTimeout(silence); source.close(); };
}

// Calls `act` now, and at most once in `milliseconds` however often it is asked; the last wish is never dropped.
export function seldom(act, milliseconds) {
  let timer = null, last = 0;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => { timer = null; last = performance.now(); act(); }, Math.max(0, last + milliseconds - performance.now()));
  };
}
