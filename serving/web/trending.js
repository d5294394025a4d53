// "Now trending": the two tables, what is playing, and how fresh they are.

import { get } from "./api.js";
import { sparkline } from "./charts.js";
import { byId, h, name, visible } from "./dom.js";
import { count, moment, plural, time } from "./format.js";
import { Panel, empty } from "./panel.js";

const SHOWN = 10;
const STALE_MINUTES = 10;

let shown = { window_start: null, window_end: null };
let told = null;
const ranks = { track: new Map(), artist: new Map() };

function move(row) {
  if (row.previous_rank === null) return h("span", { class: "move new" }, "new");
  const up = row.previous_rank - row.rank;
  if (up === 0) return h("span", { class: "move" }, h("span", { "aria-hidden": "true" }, "–"), h("span", { class: "unseen" }, `as before, ${row.previous_rank}`));
  return h("span", { class: `move ${up > 0 ? "up" : "down"}` },
    h("span", { "aria-hidden": "true" }, `${up > 0 ? "▲" : "▼"}${Math.abs(up)}`),
    h("span", { class: "unseen" }, `before: ${row.previous_rank}`));
}

function line(kind, row, known) {
  const cell = (label, content, style) => h("td", { role: "cell", class: style, "data-label": label }, content);
  const changed = known.size > 0 && known.get(row.id) !== row.rank;
  return h("tr", { role: "row", class: changed ? "changed" : null },
    cell("", count(row.rank), "rank"), cell("", move(row), "moved"),
    h("th", { role: "rowheader", scope: "row", class: "who" }, name(row.name, { class: "name" }), kind === "track" ? name(row.artist_name, { class: "by" }) : null),
    cell("", sparkline(row.history), "history"),
    cell("listens", count(row.listens), "number"), cell("listeners", count(row.listeners), "number"), cell("score", row.score.toFixed(2), "number"));
}

function draw(kind, answer) {
  if (answer.items.length === 0) {
    return empty("Nothing is trending yet.", "Once the trending job has seen a window of listens, its tracks and artists show here by themselves (pulse live shows how).");
  }
  const known = ranks[kind];
  const rows = answer.items.map((row) => line(kind, row, known));
  ranks[kind] = new Map(answer.items.map((row) => [row.id, row.rank]));
  const head = ["#", "Was", kind === "track" ? "Track" : "Artist", `${count((minutesOf(answer.window_start, answer.window_end) * answer.items[0].history.length) / 60)} hours`, "Listens", "Listeners", "Score"];
  const styles = ["rank", "moved", "who", "history", "number", "number", "number"];
  return h("table", { class: "trending", role: "table" },
    h("caption", { class: "unseen" }, `Trending ${kind}s from ${moment(answer.window_start)} to ${time(answer.window_end)}`),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((text, place) => h("th", { role: "columnheader", scope: "col", class: styles[place] }, text)))),
    h("tbody", { role: "rowgroup" }, rows));
}

// Said aloud when the leader changes, and not at every window.
function tell(answer) {
  const leader = answer.items[0];
  if (!leader || leader.id === told) return;
  if (told !== null) byId("trending-news").textContent = `Now first: ${visible(leader.name)} by ${visible(leader.artist_name)}`;
  told = leader.id;
}

const minutesOf = (start, end) => (Date.parse(end) - Date.parse(start)) / 60000;

export function showAge() {
  const { window_start: start, window_end: end } = shown;
  if (end === null) return byId("window").replaceChildren();
  const old = Date.now() - Date.parse(end) > STALE_MINUTES * 60000;
  const today = new Date(end).toDateString() === new Date().toDateString();
  byId("window").replaceChildren(`${plural(minutesOf(start, end), "minute")} to ${today ? time(end) : moment(end)}`, ...(old ? [" ", h("span", { class: "pill stale" }, "Old: no window has come since. Does the trending job run?")] : []));
}

const panels = ["track", "artist"].map((kind) => new Panel(
  byId(`trending-${kind}`),
  (signal) => get("trending", { kind, limit: SHOWN }, signal),
  (answer) => {
    if (kind === "track") {
      shown = answer;
      showAge();
      tell(answer);
    }
    return draw(kind, answer);
  },
));

export async function refreshPlaying() {
  const list = byId("playing");
  const now = await get("playing-now").catch(() => null);
  if (now === null) return; // what was read stays, as elsewhere
  list.hidden = now.length === 0;
  list.replaceChildren(...now.slice(0, 6).map((each) => h("li", {},
    h("span", { class: "equaliser", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("span", {}, name(each.user_id, { class: "user" }), " hears ", name(each.track_name, { class: "name" }), " by ", name(each.artist_name)))));
}

// Resolves to what went wrong, or null.
export async function refreshTrending() {
  refreshPlaying();
  return (await Promise.all(panels.map((panel) => panel.refresh()))).find(Boolean) ?? null;
}
