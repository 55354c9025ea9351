// Failures that are alike, together: how many, since when, whether it still goes on; and the way to run them again.
import { can } from "./api.js";
import { spark } from "./charts.js";
import { h, heads } from "./dom.js";
import { ago, coarse, count, full } from "./format.js";
import { health } from "./health.js";
import { Order } from "./order.js";
import { head, hrefOf, icon, resort, segments } from "./ui.js";
import { Resource, shownOf } from "./resource.js";
import { steerMany } from "./steering.js";

const WINDOWS = { "1h": ["1 h", 1], "24h": ["24 h", 24], "7d": ["7 d", 168] };
const MOST = 100;

export function errors(app, route) {
  const chosen = WINDOWS[route.query.get("range")] ? route.query.get("range") : "24h";
  const [label, hours] = WINDOWS[chosen];
  const path = () => `errors?limit=${MOST}&since=${new Date(Date.now() - hours * 3600000).toISOString()}`;
  const list = new Resource(path, { every: 2000, idle: 15000 });
  const retry = async (group) => {
    const filter = { error_group: group.group, status: "failed" };
    if (await steerMany("retry", filter, `failed with ${group.type} in ${group.handler}`)) app.refresh();
  };
  const order = new Order();
  const handler = route.query.get("handler");
  const groups = (data) => {
    const { all, changed } = order.of(data.filter((group) => !handler || group.handler === handler), (group) => group.group, byCount, "count");
    return [handler && h("p.chip", { key: "chip" }, "handler ", h("code", handler), h("a.button.icon-only", { href: "#/errors", "aria-label": "Any handler" }, icon("close"))), resort(changed, () => (order.renew(), app.render())),
      h("div.groups", { key: "groups" }, all.map(({ row, gone }) => card(row, label, retry, gone)))];
  };
  return {
    title: "Errors",
    resources: [list],
    view: () => [
      head("Errors", "Attempts that failed, by handler, error and the shape of its message.",
        segments("Window", chosen, Object.entries(WINDOWS).map(([name, [text]]) => [name, name === "24h" ? "#/errors" : `#/errors?range=${name}`, text]))),
      shownOf(list, groups, `Nothing failed in the last ${label}.`),
    ],
  };
}

const byCount = (a, b) => b.count - a.count || a.group.localeCompare(b.group);
const tasksOf = (group) => `#/tasks?error_group=${group.group}`;

function card(group, label, retry, gone) {
  return h("section.panel.group", { key: group.group, "data-group": group.group, class: gone ? "gone" : "" },
    h("div.what", h("h2", h("a", { href: tasksOf(group) }, group.type)), h("p.shape", group.message || "(no message)"),
      h("p.soft", "in ", h("code", group.handler), " · first ", h("time", { title: full(group.first_seen) }, ago(group.first_seen)),
        " · last ", h("time", { title: full(group.last_seen) }, ago(group.last_seen)))),
    h("div.trend", spark(group.trend, `Over the last ${label}: ${group.trend.join(", ")}`), h("small", `last ${label}`)),
    h("div.many", h("p.big", { "data-count": "group" }, count(group.count)), h("small", group.count === 1 ? "attempt" : "attempts")),
    h("div.actions", h("a.button", { href: hrefOf(group.example_id) }, "Example"), h("a.button", { href: tasksOf(group) }, "Tasks"),
      can("admin") && h("button", { onclick: () => retry(group), disabled: health.shut }, icon("retry"), "Retry all")));
}

// For the overview: one line each.
export function errorRows(data) {
  return h("table.mini", heads("Error", h("th.trend-cell", { scope: "col" }, "24 h"), "#Count", "#Last"),
    h("tbody", data.map((group) => h("tr", { key: group.group },
      h("td.cut", { title: `${group.handler}: ${group.message}` }, h("a", { href: tasksOf(group) }, group.type), h("span.soft", ` ${group.handler}`)),
      h("td", spark(group.trend, `Over the last 24 hours: ${group.trend.join(", ")}`)),
      h("td.num", count(group.count)), h("td.num", coarse((Date.now() - Date.parse(group.last_seen)) / 1000))))));
}
