// What the reader chose and finds again: the tasks selected under a filter, for this tab, and views that were given a name.
import { dialog } from "./dialogs.js";
import { h } from "./dom.js";
import { icon } from "./ui.js";
import { keep, kept } from "./kept.js";

const MOST = 8; // filters whose selections are remembered

const read = (store, name) => {
  try {
    return JSON.parse(kept(store, name)) || [];
  } catch {
    return [];
  }
};

// The selection under a filter: a set that is found again when the filter is, on other pages of its list too.
export class Picked extends Set {
  constructor(filter) {
    super(new Map(read("sessionStorage", "picked")).get(filter));
    this.filter = filter;
  }

  kept() {
    const all = read("sessionStorage", "picked").filter(([filter]) => filter !== this.filter);
    keep("sessionStorage", "picked", JSON.stringify([...all, [this.filter, [...this]]].filter(([, ids]) => ids.length).slice(-MOST)));
  }
}

// Links of the views that were kept, and the way to keep this one or to forget it: the address is all that a view is.
export function views(here, blank, changed) {
  const all = read("localStorage", "views");
  const known = all.find(([, href]) => href === here);
  const save = (list) => (keep("localStorage", "views", JSON.stringify(list)), changed());
  const add = async () => {
    const name = await ask();
    if (name) save([...all.filter(([other]) => other !== name), [name, here]]);
  };
  return [all.map(([name, href]) => h("a.button.view", { key: `view ${name}`, href, "aria-current": href === here && "true" }, name)),
    known ? h("button.quiet", { key: "forget", type: "button", onclick: () => save(all.filter((one) => one !== known)) }, "Forget this view")
      : !blank && h("button.quiet", { key: "keep", type: "button", onclick: () => void add() }, "Keep this view")];
}

function ask() {
  const state = { name: "" };
  return dialog("Keep this view", (close) => h("form", { onsubmit: (event) => (event.preventDefault(), close(state.name.trim())) },
    h("label", h("span", "Name"), h("input", { "data-first": true, maxlength: 40, autocomplete: "off", oninput: (event) => (state.name = event.target.value) })),
    h("p.soft", "In this browser; its address can be sent to anybody."),
    h("footer", h("button.primary", { type: "submit" }, icon("done"), "Keep"))));
}
