// Before the first paint: the theme that was chosen here, so that no page flashes in the other one.
"use strict";
try {
  const chosen = localStorage.getItem("jobpipe.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden: then the system's theme holds.
}
