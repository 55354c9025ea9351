// Charts as plain SVG, drawn at the width they have. A cursor follows the pointer and the arrow keys; the legend says
// what it points at. Kinds differ by place, pattern and label, never by colour alone.
import { h } from "./dom.js";
import { clock, count, day, duration, rate } from "./format.js";

const MINUTE = 60000;
const DAY = 1440 * MINUTE;
const COUNTS = ["enqueued", "done", "failed", "cancelled", "retried", "rescued"];
const TIMES = ["wait_p50", "wait_p95", "wait_p99", "run_p50", "run_p95", "run_p99"];
const MARGIN = { left: 50, right: 10, top: 8, bottom: 20 };

// Ranges that can be looked at: [label, minutes, minutes per step].
export const RANGES = { "1h": ["1 h", 60, 1], "6h": ["6 h", 360, 5], "24h": ["24 h", 1440, 15], "7d": ["7 d", 10080, 120] };

// /series leaves out idle minutes: here every step is there. Counts become an average per minute; of percentiles the
// worst minute counts, because percentiles of parts do not add up.
export function steps(series, range, until) {
  const [, minutes, size] = RANGES[range];
  const step = size * MINUTE;
  const last = Math.floor(until / step) * step;
  const first = last - (minutes / size - 1) * step;
  const made = Array.from({ length: minutes / size }, (_, i) => ({ at: first + i * step, queued: null, seen: 0 }));
  for (const one of made) {
    for (const name of COUNTS) one[name] = 0;
    for (const name of TIMES) one[name] = null;
  }
  for (const minute of series) {
    const one = made[Math.floor((Date.parse(minute.at) - first) / step)];
    if (!one) continue;
    for (const name of COUNTS) one[name] += minute[name] / size;
    for (const name of TIMES) one[name] = most(one[name], minute[name]);
    one.queued = most(one.queued, minute.queued);
  }
  return made;
}

const most = (a, b) => (a === null ? b : b === null ? a : Math.max(a, b));

// What all charts share: width, cursor, frame. `changed` asks for a new rendering.
class Chart {
  width = 0;
  at = null;

  constructor(changed, height) {
    this.changed = changed;
    this.height = height;
  }

  frame(title, points, legend, draw, summary) {
    const plot = { x: MARGIN.left, y: MARGIN.top, w: Math.max(0, this.width - MARGIN.left - MARGIN.right), h: this.height - MARGIN.top - MARGIN.bottom };
    const chosen = this.at === null ? null : Math.min(this.at, points.length - 1);
    const move = (event) => {
      const x = event.clientX - event.currentTarget.getBoundingClientRect().left - plot.x;
      this.#point(Math.max(0, Math.min(points.length - 1, Math.floor((x / plot.w) * points.length))));
    };
    const svg = this.width > 0 && h("svg", {
      key: "plot", viewBox: `0 0 ${this.width} ${this.height}`, height: this.height, role: "img", tabindex: "0", "aria-label": `${title}. ${summary} Arrow keys move the cursor.`,
      onpointermove: move, onpointerleave: () => this.#point(null), onblur: () => this.#point(null),
      onkeydown: (event) => this.#key(event, points.length),
    }, draw(plot, chosen), xAxis(points, plot), chosen !== null && cursor(plot, chosen, points.length));
    const [when, ...items] = legend(chosen);
    return h("figure.chart", h("figcaption", { "aria-live": chosen === null ? "off" : "polite" }, h("h2", title, h("small", ` ${when}`)), h("p.legend", items)),
      h("div.plot", { made: (node) => this.#watch(node) }, svg));
  }

  #watch(node) {
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width !== this.width) {
        this.width = width;
        this.changed();
      }
    }).observe(node);
  }

  #point(at) {
    if (at === this.at) return;
    this.at = at;
    this.changed();
  }

  #key(event, length) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -length, End: length };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#point(Math.max(0, Math.min(length - 1, (this.at ?? length - 1) + moves[event.key])));
  }
}

// Finished tasks stand up, failures hang down, on one scale; the line is what came in.
export class FlowChart extends Chart {
  view(points, range) {
    const up = Math.max(...points.map((p) => Math.max(p.done + p.cancelled, p.enqueued)), 0);
    const down = Math.max(...points.map((p) => p.failed + p.retried), 0);
    const total = (name) => Math.round(points.reduce((sum, p) => sum + p[name], 0) * RANGES[range][2]);
    const legend = (i) => {
      const say = (name) => (i === null ? count(total(name)) : `${rate(points[i][name])}/min`);
      return [i === null ? `last ${RANGES[range][0]}` : moment(points[i].at),
        item("line in", "enqueued", say("enqueued")), item("fill-done", "done", say("done")),
        item("fill-retry", "retried", say("retried")), item("fill-failed", "failed", say("failed"))];
    };
    const draw = (plot, chosen) => this.#draw(points, plot, chosen, scale(up, down));
    return this.frame("Throughput", points, legend, draw,
      `Tasks per minute over the last ${RANGES[range][0]}: ${count(total("enqueued"))} enqueued, ${count(total("done"))} done, ${count(total("failed"))} failed.`);
  }

  #draw(points, plot, chosen, { top, bottom, ticks }) {
    const y = (v) => plot.y + (plot.h * (top - v)) / (top + bottom);
    const w = plot.w / points.length;
    const bar = (p, i, name, from, to) => Math.abs(to - from) > 0 && h("rect", {
      key: `${name}${i}`, class: `${name}${i === chosen ? " on" : ""}`, x: round(plot.x + i * w + 0.5), width: round(Math.max(1, w - 1)),
      y: round(Math.min(y(from), y(to))), height: round(Math.max(1, Math.abs(y(from) - y(to)))),
    });
    const line = points.map((p, i) => `${i ? "L" : "M"}${round(plot.x + i * w)} ${round(y(p.enqueued))}h${round(w)}`).join("");
    return [ticks.map((v) => yTick(plot, y(v), v === 0 ? "0" : rate(Math.abs(v)))),
      h("g", { key: "bars" }, points.map((p, i) => [bar(p, i, "done", 0, p.done), bar(p, i, "cancelled", p.done, p.done + p.cancelled),
        bar(p, i, "failed", 0, -p.failed), bar(p, i, "retry", -p.failed, -p.failed - p.retried)])),
      h("path.in", { key: "in", d: line }),
      h("line.zero", { key: "zero", x1: plot.x, x2: plot.x + plot.w, y1: round(y(0)), y2: round(y(0)) })];
  }
}

// Median, 95th and 99th percentile on a logarithmic scale: full, dashed, dotted.
export class TimeChart extends Chart {
  constructor(changed, height, kind, title) {
    super(changed, height);
    this.kind = kind;
    this.title = title;
  }

  view(points, range) {
    const names = ["p50", "p95", "p99"].map((p) => `${this.kind}_${p}`);
    const last = points.findLastIndex((p) => p[names[0]] !== null);
    const legend = (i) => {
      const p = points[i ?? last];
      return [p ? (i === null ? `at ${clock(p.at)}` : moment(p.at)) : "nothing yet",
        names.map((name) => item(`line ${name.slice(-3)}`, name.slice(-3), p ? duration(p[name]) : "–"))];
    };
    const values = points.flatMap((p) => names.map((name) => p[name])).filter((v) => v !== null);
    const draw = (plot, chosen) => this.#draw(points, names, plot, values);
    return this.frame(this.title, points, legend, draw,
      values.length ? `Over the last ${RANGES[range][0]} the worst 99th percentile was ${duration(Math.max(...values))}.` : "No task in this time.");
  }

  #draw(points, names, plot, values) {
    const low = Math.floor(Math.log10(Math.max(0.001, Math.min(...values, 0.1))));
    const high = Math.max(low + 2, Math.ceil(Math.log10(Math.max(...values, 0.001))));
    const y = (v) => plot.y + (plot.h * (high - Math.log10(Math.max(v, 10 ** low)))) / (high - low);
    const step = Math.ceil((high - low) / 4);
    const ticks = [];
    for (let power = low; power <= high; power += step) ticks.push(10 ** power);
    const w = plot.w / points.length;
    const line = (name) => {
      let pen = "M";
      let d = "";
      points.forEach((p, i) => {
        if (p[name] === null) {
          pen = "M";
          return;
        }
        d += `${pen}${round(plot.x + i * w)} ${round(y(p[name]))}h${round(w)}`;
        pen = "L";
      });
      return h("path", { key: name, class: name.slice(-3), d });
    };
    return [ticks.map((v) => yTick(plot, y(v), v < 1 ? `${Math.round(v * 1000)} ms` : `${count(v)} s`)), names.map(line)];
  }
}

const item = (cls, name, value) => h("span.item", h("i", { class: cls, "aria-hidden": "true" }), `${name} `, h("b", value));
const moment = (at) => `${day(at)} ${clock(at)}`;
const round = (v) => Math.round(v * 10) / 10;

function cursor(plot, i, length) {
  const x = round(plot.x + ((i + 0.5) * plot.w) / length);
  return h("line.cursor", { key: "cursor", x1: x, x2: x, y1: plot.y, y2: plot.y + plot.h });
}

function yTick(plot, y, text) {
  return h("g.tick", { key: `y${text}${Math.round(y)}` },
    h("line", { x1: plot.x, x2: plot.x + plot.w, y1: round(y), y2: round(y) }),
    h("text", { x: plot.x - 6, y: round(y + 3.5), "text-anchor": "end" }, text));
}

// At most one label for each 90 pixels, at whole steps of the clock.
function xAxis(points, plot) {
  const span = points.at(-1).at - points[0].at;
  const fit = Math.max(1, Math.floor(plot.w / 90));
  const step = [5, 10, 15, 30, 60, 120, 240, 360, 720, 1440, 2880].map((m) => m * MINUTE).find((s) => span / s <= fit) || 2880 * MINUTE;
  const offset = new Date(points[0].at).getTimezoneOffset() * MINUTE;
  return h("g.tick", { key: "x" }, points.map((p, i) => {
    if ((p.at - offset) % step) return null;
    const x = round(plot.x + (i * plot.w) / points.length);
    if (x < plot.x + 8 || x > plot.x + plot.w - 12) return null;
    return h("text", { key: p.at, x, y: plot.y + plot.h + 15, "text-anchor": "middle" }, (p.at - offset) % DAY ? clock(p.at) : step >= 720 * MINUTE ? day(p.at) : clock(p.at));
  }));
}

// A scale with zero inside and about four lines, the same distance apart on both sides.
function scale(up, down) {
  const rough = Math.max(up + down, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const top = Math.max(step, Math.ceil(up / step) * step);
  const bottom = Math.ceil(down / step) * step;
  const ticks = [];
  for (let v = -bottom; v <= top + step / 2; v += step) ticks.push(Math.abs(v) < step / 2 ? 0 : v);
  return { top, bottom, ticks };
}

const bars = (heights) => heights.map((tall, i) => (tall ? `M${i * 4} 20v-${round(tall)}h3v${round(tall)}z` : "")).join("");

// A row of small bars; the highest fills the height.
export function spark(given, label, length = given.length) {
  const values = [...Array(Math.max(0, length - given.length)).fill(0), ...given];
  const top = Math.max(...values, 1);
  return h("svg.spark", { viewBox: `0 0 ${values.length * 4} 20`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    // Two paths, not a shape for each: hundreds of these are drawn at a time.
    [["some", (v) => v && Math.max(2, (18 * v) / top)], ["none", (v) => !v && 1]].map(([cls, tall]) => h("path", { key: cls, class: cls, d: bars(values.map(tall)) })));
}
