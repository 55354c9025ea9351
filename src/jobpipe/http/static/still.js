// Nothing moves under a pointer or a focus: what grew or shrank above is made up for by scrolling, before it is seen;
// and a part that is pointed at keeps its rows until it is left.

let pointer = null;

addEventListener("pointermove", (event) => (pointer = event.pointerType === "touch" ? null : { x: event.clientX, y: event.clientY }), { passive: true });
addEventListener("pointerdown", (event) => (pointer = { x: event.clientX, y: event.clientY }), { passive: true });
document.addEventListener("pointerleave", () => (pointer = null));

// Draws by `draw`, and leaves in its place on the screen what is focused or pointed at within `root`.
export function holding(root, draw) {
  const anchor = anchorIn(root);
  const before = anchor?.getBoundingClientRect().top;
  draw();
  if (!anchor?.isConnected) return;
  const by = anchor.getBoundingClientRect().top - before;
  if (Math.abs(by) >= 1) scrollBy({ top: by, behavior: "instant" });
}

function anchorIn(root) {
  const pointed = pointer && document.elementFromPoint(pointer.x, pointer.y);
  if (pointed && root.contains(pointed) && pointed !== root) return pointed;
  const focused = document.activeElement;
  return focused && root.contains(focused) && focused !== root && focused.localName !== "h1" ? focused : null;
}

export const touched = (selector) => Boolean(document.querySelector(`${selector}:hover, ${selector}:focus-within`));

// What was made last for as long as it is pointed at or focused, else what is made now.
export class Still {
  #last = new Map();

  of(id, make) {
    if (!this.#last.has(id) || !touched(`#${id}`)) this.#last.set(id, make());
    return this.#last.get(id);
  }
}
