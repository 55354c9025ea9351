"""A small audit of the page that is open: what a screen reader would miss, and what eyes would."""

from __future__ import annotations

PROBLEMS = r"""
() => {
  const found = [];
  const shown = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length > 0;
  const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
  const what = (e) => e.outerHTML.slice(0, 120);

  // Names
  const name = (e) => [e.getAttribute("aria-label"), e.getAttribute("title"), e.getAttribute("placeholder"),
    ...(e.getAttribute("aria-labelledby") || "").split(" ").map((id) => id && document.getElementById(id)?.textContent),
    ...[...(e.labels || [])].map((label) => label.textContent), e.textContent].some((text) => text && text.trim());
  const named = "a, button, input, textarea, select, summary, [role=img]";
  const labelled = "dialog, nav, [role=region], [role=group], [role=search]";
  for (const e of all(`${named}, ${labelled}`)) {
    const own = e.matches(labelled) ? e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") : name(e);
    if (!own) found.push("without a name: " + what(e));
  }
  for (const e of all("[tabindex]")) if (Number(e.getAttribute("tabindex")) > 0) found.push("out of order: " + what(e));

  // Structure
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push("twice: #" + id);
  for (const attribute of ["aria-describedby", "aria-labelledby", "list"])
    for (const e of document.querySelectorAll(`[${attribute}]`))
      for (const id of e.getAttribute(attribute).split(" "))
        if (!document.getElementById(id)) found.push("points nowhere: " + what(e));
  const levels = all("h1, h2, h3, h4, h5, h6").map((e) => Number(e.localName[1]));
  if (levels.filter((level) => level === 1).length !== 1) found.push("not one h1: " + levels);
  levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) found.push("a level is left out: " + levels); });
  for (const selector of ["main", "header", "nav"]) if (!document.querySelector(selector)) found.push("no " + selector);
  if (document.documentElement.lang !== "en") found.push("no language");
  for (const table of all("table")) {
    if (!table.querySelector("thead th")) found.push("no heads: " + what(table));
    for (const th of table.querySelectorAll("th")) if (!th.scope) found.push("no scope: " + what(th));
  }

  // Contrast, WCAG 2.2 AA: 4.5, for large text 3
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => (v * top[3] + below[i] * (255 - top[3])) / 255);
  const ground = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || !shown(e) || e.closest(":disabled, noscript, .hidden, .skip")) continue;
    const style = getComputedStyle(e);
    const size = parseFloat(style.fontSize);
    const need = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const back = ground(e);
    const [a, b] = [light(over(rgba(e.namespaceURI.endsWith("svg") ? style.fill : style.color), back)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const key = e.className + style.color + back;
    if (ratio < need && !seen.has(key)) found.push(`contrast ${ratio.toFixed(2)} of ${need}: ` + what(e));
    seen.add(key);
  }
  return found;
}
"""
