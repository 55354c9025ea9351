// Failures that are alike, together: how many, since when, whether it still goes on; and the way to run them again.
import { can } from "./api.js";
import { spark } from "./charts.js";
import { h, heads } from "./dom.js";
import { ago, coarse, count, full } from "./format.js";
import { health } from "./health.js";
import { GroupTasks } from "./grouptasks.js";
import { Order } from "./order.js";
import { focusedRow } from "./rows.js";
import { finder, head, hrefOf, icon, resort, segments } from "./ui.js";
import { Resource, shownOf } from "./resource.js";
import { steerMany } from "./steering.js";

const WINDOWS = { "1h": ["1 h", 1], "24h": ["24 h", 24], "7d": ["7 d", 168] };
const MOST = 100;
// What the server has not seen before in all that it keeps.
const NEW = { "": ["All", Infinity], "1h": ["New in 1 h", 1], "24h": ["New in 24 h", 24] };
const SORTS = {
  count: ["Most attempts", (a, b) => b.count - a.count],
  last: ["Latest", (a, b) => b.last_seen.localeCompare(a.last_seen)],
  first: ["Newest", (a, b) => b.first_seen.localeCompare(a.first_seen)],
  handler: ["By handler", (a, b) => a.handler.localeCompare(b.handler)],
};

export function errors(app, route) {
  const chosen = WINDOWS[route.query.get("range")] ? route.query.get("range") : "24h";
  const fresh = NEW[route.query.get("new")] ? route.query.get("new") : "";
  const [label, hours] = WINDOWS[fresh ? "7d" : chosen];
  // Whether one is new is told by all that is kept.
  const path = () => `errors?limit=${most}&since=${new Date(Date.now() - hours * 3600000).toISOString()}`;
  const most = fresh ? 10 * MOST : MOST;
  const list = new Resource(path, { every: 2000, idle: 15000 });
  const act = async (verb, group) => {
    const filter = { error_group: group.group, ...(verb === "retry" ? { status: "failed" } : {}) };
    if (await steerMany(verb, filter, `${verb === "retry" ? "failed" : "that last failed"} with ${group.type} in ${group.handler}`)) app.refresh();
  };
  const steering = (verb) => () => {
    const group = can("admin") && list.data?.find((one) => one.group === focusedRow()?.dataset.group);
    return group ? void act(verb, group) : false;
  };
  const order = new Order();
  const behind = new GroupTasks(app.render);
  const sort = SORTS[route.query.get("sort")] ? route.query.get("sort") : "count";
  const handler = route.query.get("handler") || "";
  const state = { find: route.query.get("find") || "" };
  const to = (more) => hashOf({ range: chosen, sort, handler, fresh, find: state.find, ...more });
  const find = (event) => {
    state.find = event.target.value.trim();
    history.replaceState(null, "", to({}));
    app.render();
  };
  const compare = (a, b) => SORTS[sort][1](a, b) || a.group.localeCompare(b.group);
  const wanted = ({ row }) => (!handler || row.handler === handler) && Date.now() - Date.parse(row.first_seen) < NEW[fresh][1] * 3600000 && `${row.handler} ${row.type} ${row.message}`.toLowerCase().includes(state.find.toLowerCase());
  const groups = (data) => {
    const { all, changed } = order.of(data, (group) => group.group, compare, sort);
    const shown = all.filter(wanted);
    return [h("div.toolbar.steady", { key: "bar", role: "group", "aria-label": "Which errors" },
      finder("Find an error", state.find, find),
      segments("Order", sort, Object.entries(SORTS).map(([name, [text]]) => [name, to({ sort: name }), text])),
      segments("New", fresh, Object.entries(NEW).map(([name, [text]]) => [name, to({ fresh: name }), text])),
      handler && h("p.chip", { key: "chip" }, "handler ", h("code", handler), h("a.button.icon-only", { href: to({ handler: "" }), "aria-label": "Any handler" }, icon("close"))),
      h("span.soft", { id: "shown" }, `${count(shown.length)} of ${count(data.length)}${data.length === most ? " or more" : ""}`), h("span.space"), resort(changed, () => (order.renew(), app.render()))),
    h("div.groups", { key: "groups" }, shown.map(({ row, gone }) => card(row, label, act, gone, behind.of(row), to)))];
  };
  return {
    title: "Errors",
    resources: [list],
    keys: () => ({ r: steering("retry"), c: steering("cancel") }),
    view: () => [
      head("Errors", "Attempts that failed, by handler, error and the shape of its message.",
        segments("Window", chosen, Object.entries(WINDOWS).map(([name, [text]]) => [name, to({ range: name }), text]))),
      shownOf(list, groups, `Nothing failed in the last ${label}.`),
    ],
  };
}

function hashOf({ range, sort, handler, fresh, find }) {
  const query = new URLSearchParams({ ...(range === "24h" ? {} : { range }), ...(sort === "count" ? {} : { sort }), ...(handler ? { handler } : {}), ...(fresh ? { new: fresh } : {}), ...(find ? { find } : {}) });
  return query.size ? `#/errors?${query}` : "#/errors";
}

const tasksOf = (group) => `#/tasks?error_group=${group.group}`;

function card(group, label, act, gone, behind, to) {
  return h("section.panel.group", { key: group.group, "data-group": group.group, class: gone ? "gone" : "" },
    h("div.what", h("h2", h("a", { href: tasksOf(group) }, group.type)), h("p.shape", group.message || "(no message)"),
      h("p.soft", "in ", h("a", { href: to({ handler: group.handler }) }, h("code", group.handler)), " · first ", h("time", { title: full(group.first_seen) }, ago(group.first_seen)),
        " · last ", h("time", { title: full(group.last_seen) }, ago(group.last_seen)))),
    h("div.trend", spark(group.trend, `Over the last ${label}: ${group.trend.join(", ")}`), h("small", `last ${label}`)),
    h("div.many", h("p.big", { "data-count": "group" }, count(group.count)), h("small", group.count === 1 ? "attempt" : "attempts"), h("small.behind", behind)),
    h("div.actions", h("a.button", { href: hrefOf(group.example_id) }, "Example"), h("a.button", { href: tasksOf(group) }, "Tasks"),
      can("admin") && [h("button", { onclick: () => act("retry", group), disabled: health.shut }, icon("retry"), "Retry all"),
        h("button", { onclick: () => act("cancel", group), disabled: health.shut }, icon("cancel"), "Cancel all")]));
}

// For the overview: one line each.
export function errorRows(data) {
  return h("table.mini", heads("Error", h("th.trend-cell", { scope: "col" }, "24 h"), "#Count", "#Last"),
    h("tbody", data.map((group) => h("tr", { key: group.group },
      h("td.cut", { title: `${group.handler}: ${group.message}` }, h("a", { href: tasksOf(group) }, group.type), h("span.soft", ` ${group.handler}`)),
      h("td", spark(group.trend, `Over the last 24 hours: ${group.trend.join(", ")}`)),
      h("td.num", count(group.count)), h("td.num", coarse((Date.now() - Date.parse(group.last_seen)) / 1000))))));
}
