// Rows by keyboard, on every page: j and k move the focus to the link of the next and the previous one, x selects where rows
// can be selected. And the list that a task was opened from, so that its page knows the tasks before and after it.
const ROWS = "main tbody tr:not(.detail), main .group, main .worker, main .incidents li";

const rows = () => [...document.querySelectorAll(ROWS)].filter((row) => row.checkVisibility() && linkOf(row));
const linkOf = (row) => row.querySelector("a.id, h2 a") || row.querySelector("a, button");
export const focusedRow = () => document.activeElement?.closest(ROWS);

export const moves = { j: () => move(1), k: () => move(-1), x: () => focusedRow()?.querySelector("input[type=checkbox]")?.click() ?? false };

function move(by) {
  const all = rows();
  const link = all[Math.max(0, Math.min(all.length - 1, all.indexOf(focusedRow()) + by))];
  if (link) linkOf(link).focus();
}

// The ids of the list that was shown last, and its address.
export const trail = { href: "#/tasks", ids: [] };

// Where a task stands in that list; null where it was opened from elsewhere.
export function placeOf(id) {
  const at = trail.ids.indexOf(id);
  return at < 0 ? null : { at, total: trail.ids.length, before: trail.ids[at - 1], after: trail.ids[at + 1] };
}
