// A Jobpipe worker for Node 18 or newer, without packages:  node worker.mjs ./handlers.mjs
// That module's default export maps names to handlers: (payload, { task, signal }) => result, async or not. `signal`
// aborts when the task is cancelled or lost. SIGTERM or Ctrl+C drains for GRACE seconds, a second one gives back at once.
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const { JOBPIPE_URL: url = 'http://127.0.0.1:8080', JOBPIPE_KEY: key, QUEUES: queues = '*', ...env } = process.env;
const [workers, lease, grace] = [env.WORKERS ?? 100, env.LEASE ?? 30, env.GRACE ?? 25].map(Number);
const { default: handlers } = await import(pathToFileURL(resolve(process.argv[2] ?? 'handlers.mjs')));
const headers = { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) };
const me = { worker_id: `${hostname()}:${process.pid}`, lease };
const held = new Map(); // lease id -> { task, abort, body }, until its settle was answered
const ended = []; // those whose `body`, the settle, is to be sent
let [busy, settling, stopping, wake] = [0, false, false, () => {}];
const change = () => new Promise((resolve) => { wake = resolve; });

async function post(path, body, seconds = 30) { // fetch keeps its connections alive
  const response = await fetch(url + path, { method: 'POST', headers, body, signal: AbortSignal.timeout(seconds * 1000) });
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  throw Object.assign(new Error(`${path}: ${response.status} ${text}`), { refused: response.status < 500 });
}
async function insist(path, body, goOn) { // through outages, with pauses that grow and leave half to chance
  for (let failures = 0; goOn(); await sleep(Math.min(5000, 50 * 2 ** failures++) * (1 + Math.random()))) {
    try { return await post(path, body); } catch (error) {
      if (error.refused) throw error;
      if (!failures) console.error(`${path} failed, trying on: ${error.cause?.message || error.message}`);
    }
  }
}
async function run(claim) {
  if (claim.body) return; // given back before it began
  busy++;
  try {
    const { task, abort: { signal } } = claim;
    if (!Object.hasOwn(handlers, task.handler)) throw { name: 'unknown_handler', message: `there is no ${task.handler}` };
    end(claim, { outcome: 'done', result: await handlers[task.handler](task.payload, { task, signal }) });
  } catch (error) { // of the handler, or of a result that is no JSON
    const [type, message] = [error?.name || 'Error', error?.message ?? error].map(String);
    end(claim, { outcome: 'failed', error: { type, message, traceback: error?.stack && String(error.stack) } });
  }
  busy--;
  wake();
}
function end(claim, outcome) {
  const { id, lease_id } = claim.task;
  if (!claim.body) ended.push(Object.assign(claim, { body: JSON.stringify({ id, lease_id, ...outcome }) }));
  if (!settling) settle(settling = true);
}
async function settle() { // one request at a time: what ends meanwhile goes with the next
  for (await null; ended.length; wake()) {
    let [count, size] = [1, ended[0].body.length];
    while (count < Math.min(ended.length, 1000) && (size += ended[count].body.length) < 4e6) count++;
    const batch = ended.splice(0, count);
    const answers = await insist('/settle', `[${batch.map(({ body }) => body)}]`, () => true).catch(
      ({ message }) => batch.map(() => ({ code: message })));
    batch.forEach((claim, i) => answered(claim, answers[i]));
  }
  settling = false;
}
function answered(claim, { accepted, code }) {
  held.delete(claim.task.lease_id);
  if (accepted) return;
  console.error(`task ${claim.task.id}: its outcome was refused: ${code}`);
  if (['lease_lost', 'not_found'].includes(code) || claim.refused) return; // somebody else has it now
  const error = { type: 'result_refused', message: code };
  end(Object.assign(claim, { body: null, refused: true }), { outcome: 'failed', retryable: false, error });
}
async function beat() {
  const leases = [...held.values()].map(({ task: { id, lease_id } }) => ({ id, lease_id }));
  if (!leases.length) return;
  const answers = await post('/extend', JSON.stringify({ worker_id, lease, leases }), lease / 3);
  answers.forEach((answer, i) => {
    if (!answer.extended || answer.cancel_requested) held.get(leases[i].lease_id)?.abort.abort();
  });
}
