// A Jobpipe worker for Node 18 or newer, without packages:  node worker.mjs ./handlers.mjs
// That module's default export maps names to handlers: (payload, { task, signal }) => result, async or not. `signal`
// aborts when the task is cancelled or lost. SIGTERM or Ctrl+C lets what runs finish; a second one ends it at once.
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const { JOBPIPE_URL: url = 'http://127.0.0.1:8080', JOBPIPE_KEY: key, QUEUES = '*', ...env } = process.env;
const [workers, lease] = [Number(env.WORKERS ?? 100), Number(env.LEASE ?? 30)]; // tasks at a time; seconds
const { default: handlers } = await import(pathToFileURL(resolve(process.argv[2] ?? 'handlers.mjs')));
const headers = { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) };
const worker_id = `${hostname()}:${process.pid}`;
const held = new Map(); // lease id -> { task, abort }, until its settle was answered
const settles = []; // those that are to be sent
let [busy, settling, stopping, wake] = [0, false, false, () => {}];
const change = () => new Promise((done) => { wake = done; });

async function post(path, value) { // fetch keeps its connections alive
  const body = typeof value === 'string' ? value : JSON.stringify({ worker_id, lease, ...value });
  const response = await fetch(url + path, { method: 'POST', headers, body, signal: AbortSignal.timeout(20_000) });
  if (response.ok) return response.json();
  throw Object.assign(new Error(`${response.status} ${await response.text()}`), { refused: response.status < 500 });
}
async function insist(path, value, goOn) { // through outages; pauses grow, leave half to chance, and fit into a lease
  for (let failures = 0; goOn(); await sleep(Math.min(2500, lease * 100, 50 * 2 ** failures++) * (1 + Math.random()))) {
    try { return await post(path, value); } catch (error) {
      if (error.refused) throw error;
      if (!failures) console.error(`${path} failed, trying on: ${error.cause?.message || error.message}`);
    }
  }
}
async function run({ task, abort: { signal } }) {
  busy++;
  try {
    if (!Object.hasOwn(handlers, task.handler)) throw { name: 'unknown_handler', message: task.handler };
    settle(task, { outcome: 'done', result: await handlers[task.handler](task.payload, { task, signal }) });
  } catch (error) { // of the handler, or of a result that is no JSON
    const [type, message] = [error?.name || 'Error', error?.message ?? error].map(String);
    settle(task, { outcome: 'failed', error: { type, message, traceback: error?.stack && String(error.stack) } });
  }
  busy--;
  wake();
}
function settle({ id, lease_id }, outcome, last = false) {
  settles.push({ id, lease_id, last, body: JSON.stringify({ id, lease_id, ...outcome }) });
  if (!settling) send(settling = true);
}
async function send() { // one request at a time: what ends meanwhile goes with the next
  for (await null; settles.length; wake()) {
    let [count, size] = [1, settles[0].body.length];
    while (count < settles.length && (size += settles[count].body.length) < 4e6) count++;
    const [batch, refuse] = [settles.splice(0, count), ({ message }) => batch.map(() => ({ code: message }))];
    const answers = await insist('/settle', `[${batch.map(({ body }) => body)}]`, () => true).catch(refuse);
    for (const [i, { accepted, code }] of answers.entries()) {
      if (!accepted) console.error(`task ${batch[i].id}: its outcome was refused: ${code}`);
      if (accepted || batch[i].last || /^(lease_lost|not_found)$/.test(code)) held.delete(batch[i].lease_id);
      else settle(batch[i], { outcome: 'failed', retryable: false, error: { type: 'refused', message: code } }, true);
    }
  }
  settling = false;
}
async function beat() {
  const leases = [...held.values()].map(({ task: { id, lease_id } }) => ({ id, lease_id }));
  const answers = leases.length ? await post('/extend', { leases }) : [];
  const over = leases.filter((_, i) => !answers[i].extended || answers[i].cancel_requested);
  for (const { lease_id } of over) held.get(lease_id)?.abort.abort();
}

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => { stopping = true; wake(); });
setInterval(() => beat().catch(({ message }) => console.error(`heartbeat failed: ${message}`)), (lease * 1000) / 3);
while (!stopping) {
  const max = Math.min(workers - busy, 2 * workers - held.size, 1000); // the next while settling, but not endlessly
  if (max <= 0) { await change(); continue; }
  const [wish, began] = [{ queues: QUEUES.split(','), max, wait: 2 }, Date.now()];
  const { tasks } = (await insist('/lease', wish, () => !stopping)) ?? { tasks: [] };
  const claims = tasks.map((task) => ({ task, abort: new AbortController() }));
  for (const claim of claims) held.set(claim.task.lease_id, claim);
  for (const claim of claims.filter(({ task }) => !task.alone)) run(claim);
  for (const claim of claims.filter(({ task }) => task.alone)) { // it took workers down: no other may go with it
    while (busy) await change();
    await run(claim);
  }
  if (!tasks.length && Date.now() - began < 1000) await sleep(500 + 500 * Math.random()); // the server is stopping
}
while (held.size) await change();
process.exit(0);
