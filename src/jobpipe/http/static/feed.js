// The event stream: one connection per browser and key, read by one visible tab and passed on to the others. A hidden tab
// reads nothing. What stops talking is given up and tried again, with growing pauses. A browser has six connections to a
// server, so that windows with many keys share a few streams' places; without one they ask now and then.
import { address, headers, refuse, session } from "./api.js";
import { inTurn } from "./turns.js";

const STREAMS = 3;
const SILENCE_MS = 35000; // the server says something every 15 s
const SLOW_MS = 4000;
const FIRST_PAUSE_MS = 400;
const LAST_PAUSE_MS = 8000;

export class Feed {
  state = "connecting"; // connecting, live, asking, away, refused
  retryAt = 0;
  #tell;
  #told;
  #id = null;
  #run = null;
  #wake = () => {};

  // `onEvent(type, data)` hears deltas and resets, `onState()` that `state` or `retryAt` changed.
  constructor(onEvent, onState) {
    this.#tell = onEvent;
    this.#told = onState;
  }

  start() {
    if (this.#run) return;
    this.#run = new AbortController();
    this.#share(this.#run.signal);
  }

  stop() {
    this.#run?.abort();
    this.#run = null;
    this.#wake();
  }

  // Another key: another stream.
  restart() {
    this.stop();
    this.#id = null;
    this.state = "connecting";
    this.start();
  }

  tryNow() {
    this.#wake();
  }

  // Tabs share only with tabs of the same key, whom the channel's name finds: nobody can list the names of channels.
  #share(signal) {
    const name = `jobpipe\n${address("events")}\n${session.key || ""}`;
    const channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => this.#hear(data, channel);
    signal.addEventListener("abort", () => channel.close());
    const say = (message) => signal.aborted || channel.postMessage(message);
    inTurn(`${name}\nturn`, 1, signal, (ours) => {
      this.leads = true;
      ours.addEventListener("abort", () => (this.leads = false));
      inTurn("jobpipe streams", STREAMS, ours, (stream) => void this.#lead(stream, say), () => this.#become("asking", 0, say));
    });
    channel.postMessage({ hello: true });
  }

  #hear(message, channel) {
    if (message.hello) {
      if (this.leads) channel.postMessage({ state: this.state, retryAt: this.retryAt });
    } else if (this.leads) {
      if (message.tryNow) this.#wake();
    } else if (message.state) {
      this.#become(message.state, message.retryAt);
    } else {
      this.#id = message.id;
      this.#tell(message.type, message.data);
    }
  }

  async #lead(signal, say) {
    let pause = FIRST_PAUSE_MS;
    while (!signal.aborted) {
      const began = Date.now();
      try {
        await this.#read(signal, say);
        pause = FIRST_PAUSE_MS; // ended by the server: it drains
      } catch (error) {
        if (error instanceof Refused) return this.#become("refused", 0, say);
      }
      if (signal.aborted) return undefined;
      if (Date.now() - began > SILENCE_MS) pause = FIRST_PAUSE_MS;
      const wait = pause * (0.75 + Math.random() / 2);
      this.#become("away", Date.now() + wait, say);
      await this.#sleep(wait);
      pause = Math.min(pause * 2, LAST_PAUSE_MS);
    }
    return undefined;
  }

  async #read(signal, say) {
    const attempt = new AbortController();
    const give_up = () => attempt.abort();
    signal.addEventListener("abort", give_up);
    let watch = setTimeout(give_up, SILENCE_MS);
    const slow = setTimeout(() => this.state === "connecting" && this.#become("asking", 0, say), SLOW_MS);
    try {
      const more = { Accept: "text/event-stream", ...(this.#id ? { "Last-Event-ID": this.#id } : {}) };
      const answer = await fetch(address("events"), {
        headers: headers(more), cache: "no-store", credentials: "omit", signal: attempt.signal,
      });
      if (answer.status === 401 || answer.status === 403) {
        if (answer.status === 401) refuse();
        throw new Refused();
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      clearTimeout(slow);
      this.#become("live", 0, say);
      const parser = new Parser((type, data, id) => {
        this.#id = id || this.#id;
        say({ type, data, id: this.#id });
        this.#tell(type, data);
      });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watch);
        watch = setTimeout(give_up, SILENCE_MS);
        parser.push(value);
      }
    } finally {
      clearTimeout(slow);
      clearTimeout(watch);
      signal.removeEventListener("abort", give_up);
    }
  }

  #become(state, retryAt, say = () => {}) {
    this.state = state;
    this.retryAt = retryAt;
    say({ state, retryAt });
    this.#told();
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

class Refused extends Error {}

// The text of an event stream, cut into events as the HTML standard (9.2.6) says.
class Parser {
  #rest = "";
  #type = "";
  #data = [];
  #id = "";

  constructor(tell) {
    this.tell = tell;
  }

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.tell(this.#type || "message", JSON.parse(this.#data.join("\n")), this.#id);
      this.#type = "";
      this.#data = [];
      return;
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "event") this.#type = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id") this.#id = value;
  }
}
