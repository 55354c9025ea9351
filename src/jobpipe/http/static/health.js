// How far what a page shows can be trusted: one judgement for every page, from what the stream, the statistics and the
// page's own questions say. What is old is grey and steers nothing until it is of now again.
import { Away, Problem } from "./api.js";
import { h } from "./dom.js";
import { duration, second } from "./format.js";
import { icon } from "./ui.js";

const SLOW_MS = 2000;
const FAILS = 2; // one question that fails is asked again before anybody is told

// Of the page as it was drawn last: `shut` says that nothing may be steered from it.
export const health = { name: "connecting", text: "connecting", shut: false };

// What holds, the worst first. `stats` is the resource that every page asks, `resources` are the page's own.
export function judge(feed, stats, resources) {
  Object.assign(health, { shut: false, detail: "", since: null }, standing(feed, stats, resources));
  return health;
}

function standing(feed, stats, resources) {
  const since = Math.min(...[stats, ...resources].map((one) => one.good || Infinity));
  const old = { shut: true, since: Number.isFinite(since) ? since : null };
  if (feed.state === "refused") return { name: "refused", text: "not live" };
  if (feed.state === "away" || stats.error instanceof Away) return { name: "away", text: "server away", ...old };
  if (stats.error instanceof Problem && stats.error.status >= 500) return { name: "store", text: "store down", detail: stats.error.detail, ...old };
  if (resources.some((one) => one.data !== null && one.fails >= FAILS)) return { name: "stale", text: old.since ? `stale since ${second(old.since)}` : "stale", ...old };
  if (stats.data?.status === "draining") return { name: "draining", text: "draining" };
  if (stats.data?.status === "degraded") return { name: "degraded", text: "no workers", detail: stats.data.trouble };
  const late = Math.max(...[stats, ...resources].map((one) => one.late()));
  if (late > SLOW_MS) return { name: "behind", text: `behind ${duration(Math.round(late / 1000))}` };
  return { name: feed.state, text: feed.state };
}

const SAYS = {
  away: ["The server is away, trying again.", "What you see is from before, and steers nothing."],
  store: ["The store does not answer.", "What you see is from before, and steers nothing until it is back."],
  stale: ["Part of this page cannot be asked for.", "What you see is from before, and steers nothing until it can."],
  draining: ["The server is draining.", "It takes no new tasks, and stops when what runs has ended."],
  degraded: ["No worker can work.", ""],
};

// The words for it over every page: they lie above it, so that they move nothing.
export function notice(feed) {
  const says = SAYS[health.name];
  if (!says) return [];
  const s = Math.max(0, Math.ceil((feed.retryAt - Date.now()) / 1000));
  const away = feed.state === "away";
  return [h("div.notice", { key: health.name, class: health.shut ? "grave" : "" }, icon("errors"),
    h("span", h("b", says[0]), ` ${says[1]} ${health.detail ? `${health.detail}.` : ""}`,
      health.since && h("span", { "aria-hidden": "true" }, ` From ${second(health.since)}.`)),
    away && h("span.soft", { "aria-hidden": "true" }, s ? `in ${s} s` : "now"),
    away && h("button", { onclick: () => feed.tryNow() }, "Try now"))];
}
