// What an empty server says: which handlers were found, and the way to the first task, to copy or to send at once.
import { can, post } from "./api.js";
import { copy } from "./dialogs.js";
import { h } from "./dom.js";
import { health } from "./health.js";
import { curl, body } from "./snippets.js";
import { complain } from "./steering.js";
import { icon, hrefOf } from "./ui.js";
import { sample } from "./schema.js";

export function firstTask(handlers, app, state) {
  const told = handlers.filter((one) => one.declared_by);
  const chosen = told.find((one) => one.handler === state.handler) || told[0];
  const payload = chosen ? sample(chosen.payload) : "{}";
  const fields = chosen ? { handler: chosen.handler } : {};
  const send = async () => {
    try {
      app.go(hrefOf((await post("enqueue", body(fields, payload))).id));
    } catch (error) {
      complain(error);
    }
  };
  return h("section.panel.first", { key: "first", "aria-label": "The first task" }, h("header", h("h2", "Nothing was enqueued yet: the first task")),
    h("ol",
      h("li", told.length ? ["Handlers were found: ", told.slice(0, 12).map((one) => h("button.quiet", { key: one.handler, "aria-pressed": String(one === chosen), onclick: () => ((state.handler = one.handler), app.render()) }, h("code", one.handler)))]
        : ["No app has told of handlers yet. Start one with ", h("code", "jobpipe serve tasks:app"), ", or try the server's default handler."]),
      h("li", "Enqueue a task for it from anywhere: ", h("pre", { tabindex: "0", "aria-label": "Command" }, curl(fields, payload)),
        h("button", { onclick: () => copy(curl(fields, payload), "curl command") }, icon("copy"), "Copy the command")),
      can("enqueue") && h("li", h("button.primary", { onclick: send, disabled: health.shut }, icon("enqueue"), "Send it from here"), " and see what becomes of it. ",
        chosen && h("a", { href: `#/enqueue?handler=${encodeURIComponent(chosen.handler)}` }, "Fill in its payload first"))));
}
