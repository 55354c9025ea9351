// Shortcuts of single keys. They can be turned off (WCAG 2.1.4) and never take a key from a field or a dialog.
import { dialog, dialogOpen, renderDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { keep, kept } from "./kept.js";

const GO = { o: "#/", t: "#/tasks", e: "#/errors", q: "#/queues", s: "#/schedules", w: "#/workers", h: "#/handlers", n: "#/enqueue" };
const HELP = [
  ["g o", "Overview"], ["g t", "Tasks"], ["g e", "Errors"], ["g q", "Queues"], ["g s", "Schedules"], ["g w", "Workers"], ["g h", "Handlers"], ["g n", "Enqueue a task"],
  ["/", "Find"], ["j k", "Next and previous row, or task"], ["x", "Select the row"], ["Enter", "Open the row"],
  ["r", "Retry; where nothing can be, ask again"], ["c", "Cancel"], ["p", "Pause or resume the queue or schedule"], ["d", "Theme: system, light, dark"], ["?", "This help"],
];

let leader = 0;
let off = kept("localStorage", "shortcuts") === "off";

// `acts` gives, by key, what the shown page and the frame can do.
export function listen(acts) {
  document.addEventListener("keydown", (event) => {
    if (off || event.ctrlKey || event.metaKey || event.altKey || dialogOpen() || typing(event.target)) return;
    if (performance.now() - leader < 1200 && GO[event.key]) {
      location.hash = GO[event.key];
      leader = 0;
    } else if (event.key === "g") {
      leader = performance.now();
      return;
    } else {
      leader = 0;
      const act = acts()[event.key];
      if (!act || act() === false) return;
    }
    event.preventDefault();
  });
}

const typing = (node) => /^(input|textarea|select)$/i.test(node.tagName) && node.type !== "checkbox";

export function help() {
  return dialog("Keyboard", () => [
    h("dl.keys", HELP.map(([keys, what]) => h("div", h("dt", keys.split(" ").map((key) => h("kbd", key))), h("dd", what)))),
    h("label.check", h("input", { type: "checkbox", checked: !off, onchange: (event) => turn(!event.target.checked) }), "Shortcuts of single keys"),
  ]);
}

function turn(to) {
  off = to;
  keep("localStorage", "shortcuts", to ? "off" : null);
  renderDialog();
}
