// A schedule as it is read, and its next times as the clocks here and in its own zone show them.
import { call } from "./api.js";
import { h, heads } from "./dom.js";
import { ago, since } from "./format.js";
import { member, parse } from "./json.js";

export const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone;

export const hrefTo = (name) => `#/schedules/${encodeURIComponent(name)}`;
export const pathOf = (name) => `schedules/${encodeURIComponent(name)}`;

// The schedule, and its task as it was written.
export async function readSchedule(path, options) {
  const { text } = await call(path, options);
  return { schedule: JSON.parse(text), task: member(parse(text), "task") };
}

const formats = new Map();

// A time as the clocks of a zone show it; null for a zone that this browser does not know.
function inZone(time, zone, whole) {
  try {
    if (!formats.has(zone)) {
      formats.set(zone, new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: zone }));
    }
    return formats.get(zone).format(new Date(time)).slice(0, whole ? -3 : undefined);
  } catch {
    return null;
  }
}

// What is past is being made.
export const soon = (time) => (since(time) > 0 ? "now" : ago(time));

export function times(s) {
  const whole = s.next.every((time) => Date.parse(time) % 60000 === 0);
  const zoned = s.timezone !== HERE && inZone(0, s.timezone) !== null;
  return h("table.full.times", h("caption.hidden", "The next times"), heads("Next", `Here, ${HERE}`, ...(zoned ? [`There, ${s.timezone}`] : [])),
    h("tbody", s.next.map((time) => h("tr", { key: time }, h("td", soon(time)), h("td", { "data-here": time }, inZone(time, HERE, whole)), zoned && h("td", { "data-there": time }, inZone(time, s.timezone, whole))))));
}
