// Dialogs and short messages. The browser's own <dialog> keeps the focus inside and gives it back.
import { h, patch } from "./dom.js";
import { icon } from "./ui.js";

const TOAST_MS = 6000;

let shown = null;
const toasts = [];

// `view(close)` gives the content. Ends with what `close` was given, null when it was dismissed.
export function dialog(title, view) {
  shown?.end(null);
  return new Promise((resolve) => {
    const mine = { end: null, render: null };
    const end = (value) => {
      if (shown !== mine) return;
      shown = null;
      const element = document.querySelector("#dialogs dialog");
      element.onclose = null;
      element.close();
      patch(document.getElementById("dialogs"), []);
      resolve(value);
    };
    mine.end = end;
    mine.render = () => patch(document.getElementById("dialogs"), [
      h("dialog", { key: title, "aria-labelledby": "dialog-title", onclose: () => end(null) },
        h("header", h("h2", { id: "dialog-title" }, title),
          h("button.icon-only", { onclick: () => end(null), "aria-label": "Close", type: "button" }, icon("close"))),
        view(end)),
    ]);
    shown = mine;
    mine.render();
    document.querySelector("#dialogs dialog").showModal();
    document.querySelector("#dialogs [data-first]")?.focus();
  });
}

export const dialogOpen = () => shown !== null;
export const renderDialog = () => shown?.render();
export const closeDialog = () => shown?.end(null);

export function toast(text, { bad = false } = {}) {
  const one = { text, bad, id: performance.now() };
  toasts.push(one);
  drawToasts();
  setTimeout(() => dismiss(one), bad ? 2 * TOAST_MS : TOAST_MS);
}

function dismiss(one) {
  const at = toasts.indexOf(one);
  if (at >= 0) toasts.splice(at, 1);
  drawToasts();
}

function drawToasts() {
  patch(document.getElementById("toasts"), toasts.slice(-4).map((one) =>
    h("div.toast", { key: one.id, class: one.bad ? "bad" : "" }, icon(one.bad ? "errors" : "done"),
      h("span", one.text),
      h("button.icon-only", { "aria-label": "Dismiss", onclick: () => dismiss(one) }, icon("close")))));
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    // No clipboard without a secure context or a permission: show it, selected, to be copied by hand.
    await dialog(`Copy ${what}`, () => h("textarea.code", {
      "data-first": true, "aria-label": what, readOnly: true, rows: 10, value: text, made: (node) => setTimeout(() => node.select()),
    }));
  }
}
