// Long lists are drawn as far as they are seen: a first stretch, more as the reader comes to its end, and of what is
// drawn only the rows on the screen are made anew.
import { h } from "./dom.js";

const STRETCH = 60;

export class Lazy {
  #shown = STRETCH;
  #made = new Map();
  #seen = new Set();
  #rows = null;
  #end = null;
  #version = null;

  // `changed` asks for a new rendering.
  constructor(changed) {
    this.#rows = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) isIntersecting ? this.#seen.add(target.dataset.key) : this.#seen.delete(target.dataset.key);
    }, { rootMargin: "200px" });
    this.#end = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      this.#shown += STRETCH;
      changed();
    }, { rootMargin: "600px" });
  }

  // `make(item)` gives a row, an element with a key and `data-key`; while `version` stays, what was made is of now.
  rows(items, keyOf, make, version = {}) {
    const old = version !== this.#version;
    this.#version = version;
    const drawn = items.slice(0, this.#shown);
    return drawn.map((item) => {
      const key = keyOf(item);
      if (!this.#made.has(key) || (old && this.#seen.has(key))) {
        const row = make(item);
        row.props = { ...row.props, "data-key": key, made: (node) => this.#rows.observe(node) };
        this.#made.set(key, row);
      }
      return this.#made.get(key);
    });
  }

  // Stands behind the last row; the stretch that is not drawn has its height, so that the scroll bar does not lie.
  more(items, height) {
    const left = Math.max(0, items.length - this.#shown);
    return left > 0 && h("div.more-rows", { key: `more${this.#shown}`, style: { "--rest": `${left * height}px` }, made: (node) => this.#end.observe(node) }, `${left} more`);
  }

  renew() {
    this.#made.clear();
    this.#shown = STRETCH;
  }
}
