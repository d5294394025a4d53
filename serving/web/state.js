// What is chosen lives in the address, so that it can be kept, shared and gone back to.

const DEFAULTS = { user: "", range: "month", from: "", to: "", measure: "listens", year: "" };
const RANGES = ["day", "week", "month", "year", "all", "own"];
const DAY = /^\d{4}-\d\d-\d\d$/;

export function readState() {
  const said = new URLSearchParams(location.search);
  const state = Object.fromEntries(Object.entries(DEFAULTS).map(([key, usual]) => [key, said.get(key) ?? usual]));
  if (!RANGES.includes(state.range)) state.range = DEFAULTS.range;
  if (state.measure !== "minutes") state.measure = "listens";
  for (const key of ["from", "to"]) if (!DAY.test(state[key]) || Number.isNaN(Date.parse(state[key]))) state[key] = "";
  if (!/^\d{4}$/.test(state.year)) state.year = "";
  return state;
}

export function writeState(state) {
  const said = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]));
  const address = `${location.pathname}${said.size ? `?${said}` : ""}${location.hash}`;
  history.pushState(null, "", address);
}

// The parameters of the API.
export function question({ user, range, from, to }) {
  return range === "own" ? { user, range: "all", from, to } : { user, range, to };
}
