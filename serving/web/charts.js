// Charts as SVG. Each is a figure with a sentence that says the same, and a table for who wants the figures.

import { h, svg } from "./dom.js";

export const WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

function figure(summary, drawing, head, rows) {
  const details = h("details", {}, h("summary", {}, "As a table"));
  details.addEventListener("toggle", () => details.append(table(summary, head, rows())), { once: true });
  return h("figure", { class: "figure" }, drawing, h("figcaption", { class: "muted" }, summary), details);
}

export function table(caption, head, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map(([first, ...others]) =>
        h("tr", {}, h("th", { scope: "row" }, first), others.map((text) => h("td", {}, text)))))));
}

function niceTop(value) {
  const step = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * step).find((top) => top >= value);
}

// items: [{label, value, text}], from old to new.
export function bars(summary, head, items) {
  const top = niceTop(Math.max(...items.map((item) => item.value)));
  const width = 100 / items.length;
  const gap = items.length > 120 ? 0.1 : 0.22;
  const drawing = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
    [25, 50, 75].map((y) => svg("line", { x1: 0, x2: 100, y1: y, y2: y, class: "rule" })),
    items.map(({ value }, place) => {
      const height = (100 * value) / top;
      return svg("rect", { x: (place + gap / 2) * width, y: 100 - height, width: width * (1 - gap), height, class: "column" });
    }));
  const tip = h("div", { class: "tip", hidden: true });
  const plot = h("div", { class: "plot" }, drawing, tip);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const place = Math.min(items.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * items.length)));
    tip.hidden = false;
    tip.textContent = `${items[place].label}: ${items[place].text}`;
    tip.style.setProperty("left", `${Math.min(85, Math.max(15, (place + 0.5) * width))}%`);
    drawing.querySelector(".lit")?.classList.remove("lit");
    drawing.querySelectorAll(".column")[place].classList.add("lit");
  });
  plot.addEventListener("pointerleave", () => {
    tip.hidden = true;
    drawing.querySelector(".lit")?.classList.remove("lit");
  });
  const ticks = [...new Set([0, Math.floor((items.length - 1) / 2), items.length - 1])];
  const chart = h("div", { class: "bars" },
    h("div", { class: "scale muted", "aria-hidden": "true" }, h("span", {}, top.toLocaleString("en")), h("span", {}, "0")),
    plot,
    h("div", { class: "ticks muted", "aria-hidden": "true" }, ticks.map((place) => h("span", {}, items[place].label))));
  return figure(summary, chart, head, () => items.map((item) => [item.label, item.text]).reverse());
}

const level = (value, most) => (value === 0 ? 0 : Math.min(4, 1 + Math.floor((4 * Math.sqrt(value)) / Math.sqrt(most + 1))));

function legend() {
  return h("p", { class: "legend muted", "aria-hidden": "true" }, "less ",
    [0, 1, 2, 3, 4].map((step) => h("span", { class: `cell level-${step}` })), " more");
}

// days: [{day, value, text}] of one year.
export function heatmap(summary, head, days) {
  const most = Math.max(1, ...days.map((item) => item.value));
  const size = 13;
  const offset = (new Date(`${days[0].day}T00:00Z`).getUTCDay() + 6) % 7;
  const cells = [];
  const months = [];
  days.forEach(({ day, value, text, label }, place) => {
    const [column, row] = [Math.floor((place + offset) / 7), (place + offset) % 7];
    cells.push(svg("rect", { x: 30 + column * size, y: 16 + row * size, width: 11, height: 11, rx: 2.5, class: `cell level-${level(value, most)}` },
      svg("title", {}, `${label}: ${text}`)));
    if (day.endsWith("-01")) {
      const title = new Date(`${day}T00:00Z`).toLocaleString("en", { month: "short", timeZone: "UTC" });
      months.push(svg("text", { x: 30 + (column + (row > 3 ? 1 : 0)) * size, y: 10 }, title));
    }
  });
  const weekdays = [0, 2, 4].map((row) => svg("text", { x: 0, y: 25 + row * size }, WEEKDAYS[row].slice(0, 3)));
  const drawing = svg("svg", { viewBox: `0 0 ${32 + 54 * size} ${18 + 7 * size}`, class: "heatmap", "aria-hidden": "true" }, months, weekdays, cells);
  const scroll = h("div", { class: "scroll wide", tabindex: "0", role: "region", "aria-label": summary }, drawing);
  // Where it does not fit: to the newest listens.
  const last = days.findLastIndex((item) => item.value > 0);
  requestAnimationFrame(() => (scroll.scrollLeft = (scroll.scrollWidth * last) / days.length - 0.8 * scroll.clientWidth));
  return figure(summary, h("div", {}, scroll, legend()), head, () =>
    days.filter((item) => item.value).map((item) => [item.label, item.text]).reverse());
}

// values[weekday 0..6][hour]
export function clock(summary, values, text) {
  const most = Math.max(1, ...values.flat());
  const [wide, high] = [20, 20];
  const cells = values.flatMap((hours, row) => hours.map((value, hour) =>
    svg("rect", { x: 32 + hour * wide, y: 2 + row * high, width: wide - 3, height: high - 3, rx: 4, class: `cell level-${level(value, most)}` },
      svg("title", {}, `${WEEKDAYS[row]} ${hour}:00: ${text(value)}`))));
  const rows = WEEKDAYS.map((day, row) => svg("text", { x: 0, y: 15 + row * high }, day.slice(0, 3)));
  const hours = [0, 6, 12, 18].map((hour) => svg("text", { x: 32 + hour * wide, y: 16 + 7 * high }, `${String(hour).padStart(2, "0")}:00`));
  const drawing = svg("svg", { viewBox: `0 0 ${32 + 24 * wide} ${22 + 7 * high}`, class: "clock", "aria-hidden": "true" }, cells, rows, hours);
  return figure(summary, h("div", {}, drawing, legend()), ["Hour", ...WEEKDAYS], () =>
    [...Array(24).keys()].map((hour) => [`${hour}:00`, ...values.map((row) => text(row[hour]))]));
}

export function sparkline(values) {
  const most = Math.max(1, ...values);
  const points = values.map((value, place) => `${((100 * place) / (values.length - 1)).toFixed(1)},${(22 - (20 * value) / most).toFixed(1)}`);
  return svg("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": `Listeners: ${values.at(-1)} now, at most ${most} before` },
    svg("polygon", { points: `0,24 ${points.join(" ")} 100,24` }), svg("polyline", { points: points.join(" ") }));
}
