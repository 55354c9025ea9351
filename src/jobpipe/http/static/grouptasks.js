// How many tasks stand behind the attempts of a group of errors, and how it is with them: asked for one group after another,
// and again when the group grew, not more often than now and then.
import { get } from "./api.js";
import { count } from "./format.js";

const MOST = 1000;
const AGAIN_MS = 15000;

export class GroupTasks {
  #known = new Map();
  #waiting = new Map();
  #asking = false;

  // `changed` asks for a new rendering.
  constructor(changed) {
    this.changed = changed;
  }

  // In words, as far as it is known; what is not is asked for.
  of({ group, count: attempts }) {
    const known = this.#known.get(group);
    if (!known || (known.attempts !== attempts && performance.now() - known.at > AGAIN_MS)) {
      this.#waiting.set(group, attempts);
      void this.#ask();
    }
    return known ? known.words : "…";
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    for (const [group, attempts] of this.#waiting) {
      this.#waiting.delete(group);
      const tasks = await get(`tasks?error_group=${group}&limit=${MOST}&fields=status`).catch(() => null);
      this.#known.set(group, { attempts, at: performance.now(), words: tasks ? words(tasks) : "?" });
      this.changed();
    }
    this.#asking = false;
  }
}

function words(tasks) {
  const by = Map.groupBy(tasks, (task) => task.status);
  const all = `${count(tasks.length)}${tasks.length === MOST ? " or more" : ""} task${tasks.length === 1 ? "" : "s"}`;
  return tasks.length ? `${all}: ${[...by].map(([status, some]) => `${count(some.length)} ${status}`).join(", ")}` : "no task any more";
}
