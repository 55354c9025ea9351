// Handlers for worker.mjs: the payload comes in, what they return is the result.
import { setTimeout as sleep } from 'node:timers/promises';

export default {
  default: (payload) => payload,
  nap: ({ seconds }, { signal }) => sleep(seconds * 1000, 'slept well', { signal }),
  fail() { throw new Error('this one always fails'); },
};
