// A page is a function from what is known to a tree of plain values; `patch` makes the document equal to the tree and
// touches nothing else, so focus, selection and scroll positions stay. Text is only ever text: no HTML is parsed.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "indeterminate", "open", "readOnly", "required", "selected"]);

// h("a.name", {href: "..."}, "text", child, [children]): an element; properties may be missing, and of children false,
// null and undefined are left out.
export function h(tag, ...kids) {
  const [name, ...classes] = tag.split(".");
  const given = isProps(kids[0]) ? kids.shift() : {};
  const all = [...classes, ...(given.class ? [given.class] : [])].join(" ");
  return { name, props: all ? { ...given, class: all } : given, kids: flat(kids), key: given.key };
}

const isProps = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !("kids" in value);

// The head of a table: a name that begins with # stands over numbers.
export function heads(...names) {
  return h("thead", h("tr", names.map((name) => (typeof name !== "string" ? name
    : h("th", { key: name, scope: "col", class: name[0] === "#" ? "num" : undefined }, name.replace("#", ""))))));
}

function flat(kids) {
  return kids.flat(Infinity).filter((kid) => kid !== null && kid !== undefined && kid !== false && kid !== true);
}

// Makes the children of `parent` equal to `kids`. Children with a key keep their element wherever they move.
export function patch(parent, kids) {
  const old = parent.vkids || [];
  const keyed = new Map(old.filter((kid) => kid.key !== undefined).map((kid) => [kid.key, kid]));
  const free = old.filter((kid) => kid.key === undefined);
  const wanted = flat([kids]).map((kid) => (typeof kid === "object" ? kid : { text: String(kid) }));
  const used = new Set();
  let next = 0;
  for (const kid of wanted) {
    const match = kid.key === undefined ? free[next++] : keyed.get(kid.key);
    if (match && match.name === kid.name && !used.has(match)) {
      used.add(match);
      update(match, kid);
    } else {
      create(kid, parent);
    }
  }
  for (const kid of old) if (!used.has(kid)) kid.node.remove();
  place(parent, wanted);
  parent.vkids = wanted;
}

function place(parent, wanted) {
  let at = parent.firstChild;
  for (const kid of wanted) {
    if (kid.node === at) at = at.nextSibling;
    else parent.insertBefore(kid.node, at);
  }
  while (at) {
    const rest = at.nextSibling;
    at.remove();
    at = rest;
  }
}

function create(kid, parent) {
  if (kid.name === undefined) {
    kid.node = document.createTextNode(kid.text);
    return;
  }
  const svg = kid.name === "svg" || (parent.namespaceURI === SVG && parent.localName !== "foreignObject");
  kid.node = svg ? document.createElementNS(SVG, kid.name) : document.createElement(kid.name);
  patch(kid.node, kid.kids);
  set(kid.node, {}, kid.props);
  if (kid.props.made) kid.props.made(kid.node);
}

function update(old, kid) {
  if (old === kid) return; // not made anew
  kid.node = old.node;
  if (kid.name === undefined) {
    if (old.text !== kid.text) kid.node.data = kid.text;
    return;
  }
  patch(kid.node, kid.kids);
  set(kid.node, old.props, kid.props);
}

function set(node, old, props) {
  for (const name of Object.keys(old)) if (!(name in props)) assign(node, name, undefined);
  for (const [name, value] of Object.entries(props)) {
    if (name === "style") style(node, old.style || {}, value);
    else if (value !== old[name]) assign(node, name, value);
  }
}

function assign(node, name, value) {
  if (name === "key" || name === "made") return;
  if (name.startsWith("on")) node[name] = value || null;
  else if (PROPERTIES.has(name)) node[name] = value === undefined ? "" : value;
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

// The policy of the page forbids the attribute; the object model may set what a stylesheet reads.
function style(node, old, style) {
  for (const [name, value] of Object.entries(style)) {
    if (old[name] !== value) node.style.setProperty(name, value);
  }
}
