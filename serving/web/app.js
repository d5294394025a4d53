// Wires the page: what is loaded when, and what it says of itself.

import { Failure, get } from "./api.js";
import { byId, h } from "./dom.js";
import { moment, plural } from "./format.js";
import { refreshListening, showNothing, startPickers } from "./listening.js";
import { listen } from "./live.js";
import { refreshPlaying, refreshTrending, showAge } from "./trending.js";

const POLL_MS = 10000;
const LIVE_POLL_MS = 60000;

let isLive = false;
let isDown = false;
let version; // undefined before the first answer, null before the first build
let lastRead = 0;

function show(failure) {
  const banner = byId("banner");
  const text = failure ? `${failure.message} This page goes on trying; what it shows may be old.` : "";
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !failure;
  const state = failure ? "down" : isLive ? "live" : "waiting";
  byId("connection").dataset.state = state;
  byId("connection-text").textContent = { down: "Offline", live: "Live", waiting: "Every 10 s" }[state];
}

// Everything that can have changed; the rest of the page only where the marts are others than those shown.
async function refresh({ all = false } = {}) {
  lastRead = Date.now();
  try {
    const status = await get("status");
    const words = [];
    if (status.changed_at) words.push(`The marts last changed ${moment(status.changed_at)}.`);
    if (status.pending_loads) words.push(`${plural(status.pending_loads, "load")} not built yet: the figures of "My listening" are a build behind.`);
    byId("freshness").textContent = words.join(" ");
    const parts = [refreshTrending()];
    if (status.version === null) {
      parts.push(showNothing());
    } else if (all || status.version !== version) {
      parts.push(refreshListening());
    }
    const failure = (await Promise.all(parts)).find(Boolean);
    if (failure) throw failure;
    version = status.version;
    isDown = false;
    show(null);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    isDown = true;
    show(error);
  }
}

function startTheme() {
  const button = byId("theme");
  const themes = ["system", "light", "dark"];
  const say = () => {
    const theme = document.documentElement.dataset.theme ?? "system";
    button.replaceChildren({ system: "◐", light: "☀", dark: "☾" }[theme], h("span", {}, ` ${theme}`));
    button.setAttribute("aria-label", `Theme: ${theme}`);
  };
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % themes.length];
    if (next === "system") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("theme");
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem("theme", next);
    }
    say();
  });
  say();
}

startTheme();
startPickers();
refresh({ all: true });
listen(
  (event, data) => {
    if (event === "database" && data === "down") {
      isDown = true;
      show(new Failure("The database is away."));
    } else if (isDown) {
      refresh();
    } else if (event === "trending") {
      refreshTrending();
    } else if (event === "marts" && version !== undefined && data !== version) {
      refresh();
    }
  },
  (is) => {
    isLive = is;
    if (!isDown) show(null);
  },
);
setInterval(() => {
  showAge();
  if (document.visibilityState !== "visible") return;
  if (Date.now() - lastRead >= (isLive && !isDown ? LIVE_POLL_MS : POLL_MS)) refresh();
  else refreshPlaying(); // no event tells of it
}, POLL_MS);
