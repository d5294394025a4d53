// Numbers, days and times as people read them. Days come without a time zone, instants in UTC.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const dayFormat = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const monthFormat = new Intl.DateTimeFormat("en", { month: "short", year: "numeric", timeZone: "UTC" });
const timeFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const momentFormat = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const count = (value) => whole.format(Math.round(value));
export const compact = (value) => (value < 10000 ? count(value) : short.format(value));
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
export const day = (text) => dayFormat.format(new Date(`${text}T00:00Z`));
export const month = (text) => monthFormat.format(new Date(`${text}T00:00Z`));
export const time = (text) => timeFormat.format(new Date(text));
export const moment = (text) => momentFormat.format(new Date(text));
export const shiftDay = (text, days) => new Date(Date.parse(`${text}T00:00Z`) + days * 86400000).toISOString().slice(0, 10);

export function duration(minutes) {
  const all = Math.round(minutes);
  if (all < 60) return `${all} min`;
  if (all < 1440) return `${Math.floor(all / 60)} h ${String(all % 60).padStart(2, "0")} min`;
  return `${count(all / 60)} h`;
}
