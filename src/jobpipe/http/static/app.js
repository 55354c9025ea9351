// The frame: address to page, what is live, one clock for asking and drawing, keys, theme, and the word that the server
// is away. A page is {title, resources, view()}, and may have live(delta), keys() and holds(resource).
import { Away, Problem, introduce, session, useKey, whenRefused } from "./api.js";
import { closeDialog, dialog, renderDialog } from "./dialogs.js";
import { h, patch } from "./dom.js";
import { enqueue } from "./enqueue.js";
import { errors } from "./errors.js";
import { Feed } from "./feed.js";
import { health, judge, notice } from "./health.js";
import { holding } from "./still.js";
import { icon } from "./ui.js";
import { keep } from "./kept.js";
import { handlers } from "./handlers.js";
import { help, listen } from "./keyboard.js";
import { moves } from "./rows.js";
import { overview } from "./overview.js";
import { queues } from "./queues.js";
import { Resource, failure, sentence } from "./resource.js";
import { schedules } from "./schedules.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";
import { workers } from "./workers.js";

const TICK_MS = 250; // also the shortest time between two drawings that the stream asks for
const AGES_MS = 1000;
const SOON_MS = 1500;
const ASK_MS = 2000;
const NOTHING = { counts: null };
const THEMES = ["auto", "light", "dark"];
const PAGES = [["", "Overview", overview], ["tasks", "Tasks", tasks], ["errors", "Errors", errors], ["queues", "Queues", queues], ["schedules", "Schedules", schedules], ["workers", "Workers", workers], ["handlers", "Handlers", handlers], ["enqueue", "Enqueue", enqueue]];

const main = document.getElementById("main");
let page = null;
let shown = null;
let dirty = false;
let drawn = 0;
let stale = false; // what is shown may be from before
let opened = 0;
let address = ""; // of what is open
let asked = 0;
let frame = 0;
let unheard = false; // the server did not answer who is looking

const stats = new Resource("stats", { every: 1000, idle: 4000 });
let trusted = true;

const app = {
  live: NOTHING,
  stats,
  // Something that the reader did: drawn with the next frame.
  render() {
    frame ||= requestAnimationFrame(draw);
  },
  tick,
  go(hash) {
    location.hash = hash;
    open();
  },
  refresh() {
    for (const resource of sources()) resource.renew();
    tick();
  },
};

const sources = () => [stats, ...page.resources];

const feed = new Feed(hear, () => {
  if (feed.state === "away") stale = true;
  else if (feed.state === "asking") app.live = NOTHING;
  else if (feed.state === "live" && stale) renew();
  app.render();
});

// What was known belongs to another time, or another key.
function renew() {
  stale = false;
  app.live = NOTHING;
  app.refresh();
}

// --- the address ---

function routeOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name, ...rest] = path.split("/");
  return { name, id: rest.length ? decoded(rest.join("/")) : null, query: new URLSearchParams(query || "") };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function open() {
  address = location.href;
  const route = routeOf(location.hash);
  const found = PAGES.find(([name]) => name === route.name) || PAGES[0];
  const same = shown !== null && shown.name === route.name && shown.id === route.id;
  for (const resource of page?.resources || []) resource.renew();
  page = route.name === "tasks" && route.id !== null ? task(app, route) : found[2](app, route);
  if (!same) patch(main, []);
  closeDialog();
  opened = performance.now();
  const first = shown === null;
  shown = { ...route, nav: found[0] };
  document.title = `${page.title} · Jobpipe`;
  draw();
  tick();
  if (first || same) return;
  scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true });
}

// --- asking and drawing ---

function hear(type, delta) {
  app.live = { counts: delta.counts };
  stats.touch();
  if (type !== "reset" && page.live) {
    dirty = page.live(delta) !== false || dirty;
  } else {
    for (const resource of page.resources) resource.touch();
  }
}

function tick() {
  if (document.hidden || session.refused) return;
  if (feed.state !== "away") {
    const time = performance.now();
    if (feed.state === "asking" && time - asked >= ASK_MS) {
      asked = time;
      for (const resource of sources()) resource.touch();
    }
    for (const resource of sources()) {
      if (!page.holds?.(resource) && resource.due(time)) resource.refresh().then(answered);
    }
  }
  if (dirty || performance.now() - drawn >= AGES_MS) draw();
}

// The first answers of a page are drawn as they come, later ones with the clock.
function answered() {
  if (performance.now() - opened < SOON_MS) app.render();
  else dirty = true;
}

function draw() {
  cancelAnimationFrame(frame);
  frame = 0;
  dirty = false;
  drawn = performance.now();
  trust();
  patch(document.getElementById("nav"), PAGES.map(([name, label]) => h("a", {
    key: name, href: `#/${name}`, class: name === "enqueue" ? "new" : "", "aria-current": shown.nav === name && "page",
  }, icon(label.toLowerCase()), h("span", label), name === "queues" && pausedCount())));
  patch(document.getElementById("tools"), tools());
  patch(document.getElementById("banner"), notice(feed));
  holding(main, () => patch(main, content()));
}

// On every page: nothing starts in these queues.
function pausedCount() {
  const n = stats.data?.paused_queues;
  return n > 0 && h("b.count", { id: "paused-queues", title: `${n} paused` }, icon("pause"), n, h("span.hidden", " paused"));
}

// What was from before is asked for anew as soon as it can be.
function trust() {
  judge(feed, stats, page.resources);
  main.classList.toggle("old", health.shut);
  if (!health.shut && !trusted) for (const resource of page.resources) resource.renew();
  trusted = !health.shut;
}

function content() {
  if (session.who !== null) return viewed();
  if (!session.refused && unheard) return [h("h1", { tabindex: "-1" }, page.title), failure(new Away())];
  if (!session.refused) return [h("p.empty", { "aria-busy": "true" }, "Loading …")];
  return [h("div.empty", h("p", "This server asks for a key."), h("button.primary", { onclick: askKey }, icon("key"), "Enter a key"))];
}

// A page that breaks must not take the frame with it.
function viewed() {
  try {
    return page.view();
  } catch (error) {
    console.error(error);
    return [h("h1", { tabindex: "-1" }, page.title), failure(error)];
  }
}

function tools() {
  const theme = document.documentElement.dataset.theme || "auto";
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return [h("span.link", { class: health.name, id: "link" }, h("i", { "aria-hidden": "true" }), health.text),
    (session.who?.keys || session.refused) && h("button.icon-only", { onclick: askKey, "aria-label": session.who ? `Key ${session.who.name}: change it` : "Enter a key", title: session.who?.name || "Key" }, icon("key")),
    h("button.icon-only", { onclick: () => setTheme(next), "aria-label": `Theme: ${theme}. Change to ${next}`, title: `Theme: ${theme}` }, icon(theme)),
    h("button.icon-only", { onclick: help, "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts" }, icon("help"))];
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  keep("localStorage", "theme", theme === "auto" ? null : theme);
  app.render();
}

// --- who looks ---

async function enter() {
  try {
    await introduce();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return;
    if (!(error instanceof Problem || error instanceof Away)) throw error;
    unheard = true;
    app.render();
    setTimeout(enter, 2000);
    return;
  }
  unheard = false;
  feed.restart();
}

async function askKey() {
  const state = { value: "", error: session.key && session.refused ? "The server does not know this key." : "" };
  const view = (close) => h("form", { onsubmit: (event) => (event.preventDefault(), close(state.value)) },
    h("label", h("span", "API key"), h("input", { type: "password", "data-first": true, autocomplete: "off", oninput: (event) => ((state.value = event.target.value.trim()), renderDialog()) })),
    state.error && h("p.bad", { role: "alert" }, sentence(state.error)),
    h("p.soft", "It is kept for this tab alone, and sent to this server alone."),
    h("footer", session.key && h("button", { type: "button", onclick: () => close("") }, "Forget the key"), h("button.primary", { type: "submit", disabled: !state.value }, "Use it")));
  const key = await dialog("Key", view);
  if (key === null) return;
  feed.stop();
  useKey(key || null);
  renew();
  await enter();
}

whenRefused(() => {
  session.who = null;
  feed.stop();
  app.render();
  void askKey();
});

// --- the start ---

const focusFind = () => document.getElementById("find")?.focus();

function find() {
  if (document.getElementById("find")) return focusFind();
  addEventListener("hashchange", focusFind, { once: true });
  location.hash = "#/tasks";
  return undefined;
}

listen(() => ({ ...moves, "/": find, r: () => app.refresh(), "?": () => void help(), d: () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3]), ...(page.keys ? page.keys() : {}) }));
addEventListener("hashchange", () => location.href !== address && open());
addEventListener("online", () => feed.tryNow());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stale = true;
    feed.stop();
  } else if (session.who !== null) feed.restart();
});
addEventListener("pagehide", () => feed.stop());
setInterval(tick, TICK_MS);
open();
void enter();
