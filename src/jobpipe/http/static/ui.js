// What pages have in common: icons, statuses, links, heads.
import { h } from "./dom.js";

// Our own icons are symbols of the shell, drawn in the colour of the text beside them.
export const icon = (name, cls = "") => h("svg.icon", { class: cls, "aria-hidden": "true" }, h("use", { href: `#i-${name}` }));

// A status as a shape and a word, so that colour says nothing alone.
export function badge(status) {
  return h("span.badge", { class: status }, icon(status), status);
}

export const hrefOf = (id) => `#/tasks/${encodeURIComponent(id)}`;
export const taskLink = (id) => h("a.id", { href: hrefOf(id) }, id);
export const queueHref = (name) => `#/queues/${encodeURIComponent(name)}`;
export const queueLink = (name) => h("a.id", { href: queueHref(name) }, name);

export const head = (title, facts, ...more) => h("div.head", h("h1", { tabindex: "-1" }, title), h("p.facts", facts), more);

// Links of which one is current: [name, href, content].
export function segments(label, chosen, links, cls = "") {
  return h("nav.segments", { "aria-label": label, class: cls }, links.map(([name, href, ...content]) =>
    h("a", { key: name, href, "aria-current": name === chosen && "true" }, content)));
}

// What may be wider than the screen is scrolled by itself, by keyboard too.
export const region = (label, cls, ...kids) => h("div.scroll", { class: cls, tabindex: "0", role: "region", "aria-label": label }, kids);

export const fact = (name, ...content) => h("div", { key: name }, h("dt", name), h("dd", content));

export const crumbed = (title, href, name, ...more) => h("div.head.task-head", { key: "head" }, h("p.crumb", h("a", { href }, title), " /"), h("h1", { tabindex: "-1" }, h("code", name)), more);

export const finder = (what, value, oninput) => h("input", { id: "find", type: "search", "aria-label": what, placeholder: what, value, oninput, autocomplete: "off", spellcheck: "false" });

// Says that rows would stand otherwise by now, and puts them in order when it is asked to; it is always there.
export const resort = (changed, act) => h("p.resort", { key: "resort" },
  h("button.quiet", { onclick: act, class: changed ? "" : "unseen" }, "The order has changed: put in order"));
