// A Jobpipe worker for Node 18 or newer, without packages:  node worker.mjs ./handlers.mjs
// That module's default export maps names to handlers: (payload, { task, signal }) => result, async or not. `signal`
// aborts when the task is cancelled or lost. SIGTERM or Ctrl+C lets what runs finish; a second one ends it at once.
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const { JOBPIPE_URL: url = 'http://127.0.0.1:8080', JOBPIPE_KEY, QUEUES = '*', WORKERS = 100, LEASE = 30, RELEASE = 0 } = process.env;
const { default: handlers } = await import(new URL(process.argv[2] ?? 'handlers.mjs', `file://${process.cwd()}/`));
const headers = { 'content-type': 'application/json', ...(JOBPIPE_KEY && { authorization: `Bearer ${JOBPIPE_KEY}` }) };
const me = { worker_id: `${hostname()}:${process.pid}`, lease: Number(LEASE) };
const held = new Map(); // lease id -> { id, abort }, until its settle was answered
const outbox = []; // what is to be settled
let told = {}; // how many tasks it can run and its release: once the server says that it takes them
let [stopping, sending, wake] = [false, Promise.resolve(), () => {}];
const change = () => new Promise((done) => { wake = done; });

async function post(path, body, goOn = () => true) { // through outages, with growing pauses
  for (let failures = 0; goOn(); await sleep(Math.min(2500, LEASE * 100, 50 * 2 ** failures++) * (1 + Math.random()))) {
    try {
      const response = await fetch(url + path, { method: 'POST', headers, body, signal: AbortSignal.timeout(2e4) });
      if (response.ok) return await response.json();
      console.error(`${path}: ${response.status} ${await response.text()}`);
      if (response.status < 500) break; // refused, and would be again
    } catch (error) { console.error(`${path}: ${error.cause?.message || error.message}`); }
  }
  return [];
}
async function run(task) {
  const [{ id, lease_id, handler, payload }, abort] = [task, new AbortController()];
  held.set(lease_id, { id, abort });
  const settle = (outcome) => outbox.push({ id, lease_id, body: JSON.stringify({ id, lease_id, ...outcome }) });
  try {
    if (!Object.hasOwn(handlers, handler)) settle({ outcome: 'released', unknown_handler: true }); // for another worker
    else settle({ outcome: 'done', result: await handlers[handler](payload, { task, signal: abort.signal }) });
  } catch (error) { // of the handler, or of a result that is no JSON
    settle({ outcome: 'failed', error: { type: `${error?.name ?? 'Error'}`, message: `${error?.message ?? error}` } });
  }
  if (outbox.length === 1) sending = sending.then(send); // one request at a time: what ends meanwhile goes later
}
async function send() {
  for (; outbox.length; wake()) { // 15 results of at most 1 MiB fit into a request
    const batch = outbox.splice(0, outbox.some(({ body }) => body.length > 4e4) ? 15 : 100);
    const answers = await post('/settle', `[${batch.map(({ body }) => body)}]`);
    for (const [i, { id, lease_id }] of batch.entries()) { // lease_lost: somebody else has it now
      if (!answers[i]?.accepted) console.error(`task ${id}: its outcome was refused: ${answers[i]?.code}`);
      held.delete(lease_id);
    }
  }
}
async function beat() {
  for (; ; await sleep((LEASE * 1000) / 3)) {
    const leases = [...held].map(([lease_id, { id }]) => ({ id, lease_id }));
    const answers = leases.length ? await post('/extend', JSON.stringify({ ...me, leases })) : [];
    for (const [i, { extended, cancel_requested }] of answers.entries()) {
      if (!extended || cancel_requested) held.get(leases[i].lease_id)?.abort.abort();
    }
  }
}

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => { stopping = true; });
beat();
while (!stopping) {
  const wish = { ...me, ...told, queues: QUEUES.split(','), max: Math.min(WORKERS - held.size, 1000), wait: 2 };
  const { tasks = [], features = [] } = await post('/lease', JSON.stringify(wish), () => !stopping);
  told = features.includes('total') ? { total: Number(WORKERS), release: Number(RELEASE) } : {};
  tasks.forEach(run);
  if (!tasks.length) await sleep(200); // it answers at once when it is stopping, or refuses
  while (held.size >= WORKERS) await change();
}
while (held.size) await change();
process.exit(0);
