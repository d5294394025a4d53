// "My listening": the pickers and the panels beneath them.

import { get } from "./api.js";
import { WEEKDAYS, bars, clock, heatmap } from "./charts.js";
import { byId, h, name } from "./dom.js";
import { compact, count, day, duration, moment, month, plural, shiftDay, time } from "./format.js";
import { Panel, empty } from "./panel.js";
import { question, readState, writeState } from "./state.js";

const LENGTHS = { day: 1, week: 7, month: 30, year: 365 };
const TOP = 10;

let state = readState();
let shown = location.search;
let period = null;
let users = [];

const measured = (item) => (state.measure === "minutes" ? item.minutes_listened : item.listens);
const inWords = (item) => (state.measure === "minutes" ? duration(item.minutes_listened) : plural(item.listens, "listen"));
const asked = (path, more = {}) => (signal) => get(path, { ...question(state), ...more }, signal);
const noListens = () => empty("No listens in this range.");

function drawOverview(answer) {
  period = answer;
  byId("period").textContent = answer.first_day === answer.last_day ? day(answer.first_day) : `${day(answer.first_day)} to ${day(answer.last_day)}`;
  byId("earlier").disabled = answer.first_day <= firstDay();
  byId("later").disabled = answer.last_day >= lastDay();
  const tile = (label, value, more) => h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, value, more ? h("small", {}, more) : null));
  const unknown = answer.listens_without_duration;
  return h("dl", {},
    tile("Listens", compact(answer.listens)),
    tile("Time", duration(answer.minutes_listened), unknown ? `+ ${plural(unknown, "listen")} of unknown length` : null),
    tile("Artists", compact(answer.artists), answer.new_artists ? `${compact(answer.new_artists)} new` : null),
    tile("Tracks", compact(answer.tracks)),
    tile("Sessions", compact(answer.sessions)),
    tile("Days with music", compact(answer.days_with_listens)));
}

function drawOverTime(answer) {
  const label = { day, week: (text) => `Week of ${day(text)}`, month }[answer.bucket];
  const items = answer.bars.map((bar) => ({ label: label(bar.day), value: measured(bar), text: inWords(bar) }));
  if (items.every((item) => item.value === 0)) return noListens();
  const best = items.reduce((most, item) => (item.value > most.value ? item : most));
  const head = [{ day: "Day", week: "Week", month: "Month" }[answer.bucket], state.measure === "minutes" ? "Time" : "Listens"];
  return bars(`By ${answer.bucket}. Most: ${best.label}, ${best.text}.`, head, items);
}

function drawTop(answer) {
  if (answer.items.length === 0) return period?.listens ? empty("No listen in this range names one.") : noListens();
  const most = Math.max(...answer.items.map((item) => item.listens));
  return h("ol", { class: "top" }, answer.items.map((item) => h("li", {},
    h("span", { class: "share", "--share": `${(100 * item.listens) / most}%`, "aria-hidden": "true" }),
    h("span", { class: "who" }, name(item.name, { class: "name" }), item.artist_name === null ? null : name(item.artist_name, { class: "by" })),
    h("span", { class: "much", title: duration(item.minutes_listened) }, count(item.listens), h("span", { class: "unseen" }, ` listens, ${duration(item.minutes_listened)}`)))));
}

function drawHeatmap(answer) {
  byId("year").textContent = answer.first_day.slice(0, 4);
  const days = answer.bars.map((bar) => ({ day: bar.day, label: day(bar.day), value: measured(bar), text: inWords(bar) }));
  const heard = days.filter((item) => item.value > 0);
  if (heard.length === 0) return empty(`No listens in ${answer.first_day.slice(0, 4)}.`);
  const best = heard.reduce((most, item) => (item.value > most.value ? item : most));
  return heatmap(`${plural(heard.length, "day")} with listens. Most: ${best.label}, ${best.text}.`, ["Day", "Heard"], days);
}

function drawClock(answer) {
  if (answer.length === 0) return noListens();
  const values = WEEKDAYS.map(() => Array(24).fill(0));
  for (const cell of answer) values[cell.weekday - 1][cell.hour] = measured(cell);
  const best = answer.reduce((most, cell) => (measured(cell) > measured(most) ? cell : most));
  const text = (value) => (state.measure === "minutes" ? duration(value) : plural(value, "listen"));
  return clock(`Most: ${WEEKDAYS[best.weekday - 1]}s from ${best.hour}:00, ${inWords(best)}.`, values, text);
}

const list = (items, row) => h("ul", { class: "list" }, items.map((item) => h("li", {}, row(item))));

function drawSessions([newest, longest]) {
  if (newest.items.length === 0) return noListens();
  const row = (session) => [
    h("span", {}, `${moment(session.started_at)} – ${time(session.ended_at)}`, state.user ? null : [" ", name(session.user_id, { class: "by" })]),
    h("span", { class: "much" }, plural(session.listens, "listen")),
  ];
  return [h("h4", {}, "Longest"), list(longest.items, row), h("h4", {}, "Newest"), list(newest.items, row)];
}

function drawDiscoveries(answer) {
  if (answer.items.length === 0) return empty("No artist was new in this range.");
  return list(answer.items, (found) => [name(found.name, { class: "name" }), h("span", { class: "much" }, day(found.first_day))]);
}

function drawStreaks([longest, newest]) {
  if (!state.user) return empty("Streaks are one person's.", "Choose a user to see days in a row.");
  if (longest.items.length === 0) return noListens();
  const current = newest.items.find((streak) => streak.last_day === lastDay());
  const row = (streak) => [`${day(streak.first_day)} – ${day(streak.last_day)}`, h("span", { class: "much" }, plural(streak.days, "day"))];
  return [current ? h("p", { class: "big" }, plural(current.days, "day"), h("small", {}, ` in a row, up to ${day(current.last_day)}`)) : null,
    h("h4", {}, "Longest"), list(longest.items, row)].filter(Boolean);
}

const both = (path, limit) => (signal) => Promise.all(
  ["longest", "newest"].map((order) => get(path, { ...question(state), order, limit }, signal)));

const panels = [
  new Panel(byId("overview"), asked("overview"), drawOverview),
  new Panel(byId("over-time"), asked("listens-over-time"), drawOverTime),
  ...["artists", "tracks", "albums"].map((kind) => new Panel(byId(`top-${kind}`), asked(`top/${kind}`, { limit: TOP }), drawTop)),
  new Panel(byId("heatmap"), (signal) => get(`heatmap/${shownYear()}`, { user: state.user }, signal), drawHeatmap),
  new Panel(byId("clock"), asked("clock"), drawClock),
  new Panel(byId("sessions"), async (signal) => (await both("sessions", 5)(signal)).reverse(), drawSessions),
  new Panel(byId("discoveries"), asked("discoveries", { limit: TOP }), drawDiscoveries),
  new Panel(byId("streaks"), both("streaks", 5), drawStreaks),
];

const chosen = () => (state.user ? users.filter((each) => each.user_id === state.user) : users);
const firstDay = () => chosen().map((each) => each.first_day).sort()[0];
const lastDay = () => chosen().map((each) => each.last_day).sort().at(-1);

const shownYear = () => state.year || (state.to || lastDay() || new Date().toISOString()).slice(0, 4);

function showPickers() {
  const picker = byId("user");
  const names = users.some((each) => each.user_id === state.user) || !state.user ? users.map((each) => each.user_id) : [state.user, ...users.map((each) => each.user_id)];
  picker.replaceChildren(h("option", { value: "" }, "Everybody"), ...names.map((user) => h("option", { value: user, dir: "auto" }, name(user).textContent)));
  picker.value = state.user;
  const form = byId("picker");
  form.elements.range.value = state.range;
  for (const input of document.getElementsByName("measure")) input.checked = input.value === state.measure;
  byId("own").hidden = state.range !== "own";
  byId("steps").hidden = !(state.range in LENGTHS);
  byId("from").value = state.from;
  byId("to").value = state.to;
}

function choose(changes) {
  state = { ...state, ...changes };
  if (state.from && state.to && state.from > state.to) [state.from, state.to] = [state.to, state.from];
  writeState(state);
  shown = location.search;
  showPickers();
  return refreshPanels();
}

// Resolves to what went wrong, or null.
async function refreshPanels() {
  byId("nothing").hidden = true;
  byId("panels").hidden = false;
  const failures = (await Promise.all(panels.map((panel) => panel.refresh()))).filter(Boolean);
  const final = failures.find((failure) => failure.isFinal);
  if (final) showInstead(empty("This can't be shown.", final.message));
  return final ? null : (failures[0] ?? null);
}

function showInstead(content) {
  byId("panels").hidden = true;
  byId("nothing").hidden = false;
  byId("nothing").replaceChildren(content);
}

// The whole part. Resolves to what went wrong, or null; raises where the users can't be read.
export async function refreshListening() {
  users = (await get("users", { limit: 500 })).items;
  if (users.length === 0) return showNothing();
  // Who is alone here need not choose.
  if (users.length === 1 && !new URLSearchParams(location.search).has("user")) state.user = users[0].user_id;
  showPickers();
  return refreshPanels();
}

export function showNothing() {
  showInstead(empty("There are no listens yet.", "pulse run --user NAME reads yours from ListenBrainz; pulse import PATH takes files of other services.", "What is imported, or sent here by a scrobbler, shows after the next build: pulse dbt build."));
  return null;
}

function step(direction) {
  const last = period?.last_day ?? lastDay();
  return choose({ to: shiftDay(last, direction * LENGTHS[state.range]), year: "" });
}

export function startPickers() {
  byId("user").addEventListener("change", (event) => choose({ user: event.target.value }));
  for (const input of document.getElementsByName("range")) {
    input.addEventListener("change", () => {
      const own = input.value === "own" && period ? { from: period.first_day, to: period.last_day } : { from: "", to: "" };
      return choose({ range: input.value, year: "", ...own });
    });
  }
  for (const input of document.getElementsByName("measure")) input.addEventListener("change", () => choose({ measure: input.value }));
  for (const key of ["from", "to"]) {
    byId(key).addEventListener("change", (event) => event.target.value && choose({ [key]: event.target.value, year: "" }));
  }
  byId("earlier").addEventListener("click", () => step(-1));
  byId("later").addEventListener("click", () => step(1));
  byId("year-before").addEventListener("click", () => choose({ year: String(Number(shownYear()) - 1) }));
  byId("year-after").addEventListener("click", () => choose({ year: String(Number(shownYear()) + 1) }));
  byId("picker").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => {
    if (location.search === shown) return; // another part of the page was jumped to
    shown = location.search;
    state = readState();
    showPickers();
    refreshPanels();
  });
  showPickers();
}
