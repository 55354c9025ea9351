// Rows stay where they are while they are looked at: an order holds until the reader asks for it anew. What is new comes
// last, what went is still shown, as it was.

export class Order {
  #places = new Map();
  #last = new Map();
  #by = null;

  // The rows in the order that holds; `by` names the comparison, and another one puts them in order.
  of(rows, keyOf, compare, by) {
    if (by !== this.#by) this.renew();
    this.#by = by;
    const here = new Map(rows.map((row) => [keyOf(row), row]));
    for (const row of [...rows].sort(compare)) {
      if (!this.#places.has(keyOf(row))) this.#places.set(keyOf(row), this.#places.size);
    }
    for (const [key, row] of here) this.#last.set(key, row);
    const all = [...this.#places.keys()].map((key) => ({ row: here.get(key) || this.#last.get(key), gone: !here.has(key) }));
    return { all, changed: moved(all, compare) };
  }

  renew() {
    this.#places.clear();
    this.#last.clear();
  }
}

// Whether the order would be another one now.
const moved = (all, compare) => all.some((one, i) => one.gone || (i > 0 && compare(all[i - 1].row, one.row) > 0));
