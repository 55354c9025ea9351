// A task as a command or a program that enqueues it again. Keys are named, never written out.
import { address, session } from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// The body of POST /enqueue. `payload` is JSON text and stays as it is; what is undefined is left out.
export function body(fields, payload) {
  const parts = Object.entries(fields)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return `{${[...parts, `"payload": ${payload}`].join(", ")}}`;
}

export function curl(fields, payload) {
  const key = session.key ? ' -H "Authorization: Bearer $JOBPIPE_KEY"' : "";
  return `curl ${quoted(address("enqueue").href)}${key} -d ${quoted(body(fields, payload))}`;
}

export function python(fields, node) {
  const { handler, ...options } = fields;
  const more = Object.entries(options)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`);
  const key = session.key ? ', key=os.environ["JOBPIPE_KEY"]' : "";
  return [
    key ? "import os\n\n" : "",
    "from jobpipe import Client\n\n",
    `with Client(${JSON.stringify(document.baseURI.split("#")[0].replace(/\/$/, ""))}${key}) as client:\n`,
    `    task = client.enqueue(\n        ${JSON.stringify(handler)},\n        ${literal(node)},\n`,
    more.map((line) => `    ${line}`).join(""),
    "    )\n    print(task.id)\n",
  ].join("");
}

function literal(node) {
  if (node.items) return `[${node.items.map(literal).join(", ")}]`;
  if (node.entries) return `{${node.entries.map(([key, item]) => `${string(key)}: ${literal(item)}`).join(", ")}}`;
  if (node.kind === "string") return string(node.text);
  return { true: "True", false: "False", null: "None" }[node.text] || node.text;
}

// JSON's escapes are Python's too, but for pairs of surrogates and the slash.
const string = (text) => JSON.stringify(JSON.parse(text));

// What of a stored task is sent to enqueue one like it: not its id, and no time that has passed.
export function fieldsOf(task) {
  return {
    handler: task.handler,
    queue: task.queue === "default" ? undefined : task.queue,
    key: task.key,
    priority: task.priority || undefined,
    max_retries: task.max_retries,
    timeout: task.timeout ?? undefined,
  };
}
