// A payload by the fields of its JSON Schema, as far as people fill in such fields; what is nested or free stays JSON. The text
// of the payload is the truth: fields are read from it and written into it, with every digit as it was typed.
import { h } from "./dom.js";
import { parse, pretty } from "./json.js";

const resolved = (part, root) => {
  const one = part?.$ref ? (root.$defs?.[part.$ref.split("/").at(-1)] ?? {}) : (part ?? {});
  return one.anyOf ? resolved(one.anyOf.find((other) => other.type !== "null"), root) : one;
};

// [name, what it is, whether it must be there], of a schema of an object; null for others.
export function fieldsIn(schema) {
  const top = resolved(schema, schema ?? {});
  if (!top.properties) return null;
  return Object.entries(top.properties).map(([name, part]) => [name, resolved(part, schema), (top.required || []).includes(name)]);
}

// Something that fits, to begin with.
export function sample(schema) {
  const fields = (fieldsIn(schema) || []).filter(([, , required]) => required);
  return `{${fields.map(([name, part]) => `${JSON.stringify(name)}: ${JSON.stringify(example(part))}`).join(", ")}}`;
}

const EXAMPLES = { string: "text", integer: 1, number: 1, boolean: true, array: [], object: {} };
const example = (part) => part.enum?.[0] ?? part.default ?? EXAMPLES[part.type] ?? null;

// `form` has the `payload`, and `drafts` of what is no JSON yet.
export function schemaForm(form, schema, changed) {
  const node = parse(form.payload);
  const here = new Map((node.entries || []).map(([key, value]) => [JSON.parse(key), value.text]));
  const put = (name, typed, part) => {
    const text = part.type === "string" && !part.enum ? JSON.stringify(typed) : typed;
    form.drafts[name] = isJson(text) ? undefined : typed;
    if (typed === "") here.delete(name);
    else if (isJson(text)) here.set(name, text);
    form.payload = pretty(parse(`{${[...here].map(([key, value]) => `${JSON.stringify(key)}: ${value}`).join(", ")}}`));
    changed();
  };
  return fieldsIn(schema).map(([name, part, required]) => h("div", { key: name }, h("label", h("span", name, required && " (required)"),
    control(name, part, form.drafts[name] ?? shown(here.get(name), part), Boolean(form.drafts[name]), (typed) => put(name, typed, part))),
    h("small", part.description || kindOf(part))));
}

const shown = (text, part) => (text === undefined ? "" : part.type === "string" && text[0] === '"' ? JSON.parse(text) : text);
const kindOf = (part) => (part.enum ? "one of these" : part.type === "string" ? "text" : part.type || "any JSON");

function control(name, part, value, bad, put) {
  const choices = part.enum?.map((one) => JSON.stringify(one)) || (part.type === "boolean" && ["true", "false"]);
  const props = { id: `p-${name}`, value, "aria-invalid": bad && "true", autocomplete: "off", spellcheck: "false", oninput: (event) => put(event.target.value) };
  if (choices) return h("select", props, ["", ...choices].map((choice) => h("option", { key: choice, value: choice, selected: choice === value }, choice || "left out")));
  return h("input", { ...props, inputmode: /number|integer/.test(part.type) ? "decimal" : undefined });
}

function isJson(text) {
  try {
    parse(text);
    return true;
  } catch {
    return false;
  }
}
