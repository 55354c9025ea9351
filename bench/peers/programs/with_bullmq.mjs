// BullMQ on Redis: 64 jobs at a time, finished jobs removed. The same command line as the Python programs' (common.py).
import { createRequire } from "node:module";

// The packages stand in the peers' own folder, beside which this file does not lie.
const require = createRequire(process.env.PEER_MODULES + "/");
const { Queue, Worker } = require("bullmq");

const CONCURRENCY = 64;
const PAUSE_MS = 20;
const { hostname: host, port } = new URL(process.env.PEER_URL);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const options = { removeOnComplete: true, removeOnFail: true };
const payload = { user: 7, email: "ada@example.org" };
const now = () => process.hrtime.bigint();

async function produce(n, paced) {
  const queue = new Queue("peer", { connection });
  await queue.waitUntilReady();
  const began = now();
  let left = n;
  const lane = async () => {
    while (left-- > 0) {
      if (paced) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      await queue.add("noop", { ...payload, sent: paced ? String(now()) : "0" }, options);
    }
  };
  await Promise.all(Array.from({ length: paced ? 1 : CONCURRENCY }, lane));
  await finish(queue, began);
}

async function batch(n, size) {
  const queue = new Queue("peer", { connection });
  await queue.waitUntilReady();
  const began = now();
  const jobs = Array.from({ length: size }, () => ({ name: "noop", data: { ...payload, sent: "0" }, opts: options }));
  for (let i = 0; i < n / size; i++) await queue.addBulk(jobs);
  await finish(queue, began);
}

async function finish(queue, began) {
  console.log(JSON.stringify({ began: Number(began), ended: Number(now()) }));
  await queue.close();
}

function work(n) {
  let warm = false;
  const latencies = [];
  const seen = async (job) => {
    const at = now();
    if (!warm) {
      warm = true;
      console.log(`warm ${at}`);
      return;
    }
    if (job.data.sent !== "0") latencies.push(Number(at - BigInt(job.data.sent)) / 1e6);
    if (--n === 0) {
      const rss_mb = process.memoryUsage().rss / 1e6;
      console.log(JSON.stringify({ last: Number(at), latencies, rss_mb }));
      process.exit(0);
    }
  };
  new Worker("peer", seen, { connection, concurrency: CONCURRENCY });
}

const [command, n, size] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
if (command === "work") work(n);
else if (command === "batch") await batch(n, size);
else await produce(n, command === "paced");
