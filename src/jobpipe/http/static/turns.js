// Which of the windows of this browser do something for all. A BroadcastChannel is all that it takes, which is there on
// plain HTTP too, where locks are not: everybody says once a second who they are, and the first few have a place.

const BEAT_MS = 1000;
const GONE_MS = 3500;
const FIRST_MS = 150; // how long the others have to answer somebody new

// Do `work(signal)` while this window has one of the `places` called `name`, until `signal`; `without()` when it has none.
export function inTurn(name, places, signal, work, without = () => {}) {
  if (signal.aborted) return;
  const channel = new BroadcastChannel(name);
  const others = new Map(); // by rank: whether they have a place, and when they were heard of
  const rank = Math.random();
  const began = performance.now();
  let mine = null; // not judged yet
  let turn = null;

  const say = (more) => channel.postMessage({ rank, has: mine === true, ...more });

  function judge() {
    const time = performance.now();
    if (time - began < FIRST_MS) return;
    for (const [other, { at }] of others) if (time - at > GONE_MS) others.delete(other);
    const before = [...others].filter(([other, { has }]) => (has === (mine === true) ? other < rank : has)).length;
    if (before < places === mine) return;
    mine = before < places;
    say();
    turn?.abort();
    turn = mine ? new AbortController() : null;
    if (mine) work(AbortSignal.any([signal, turn.signal]));
    else without();
  }

  channel.onmessage = ({ data }) => {
    if (data.gone) others.delete(data.rank);
    else others.set(data.rank, { has: data.has, at: performance.now() });
    if (data.asks) say();
    judge();
  };
  const timers = [setTimeout(judge, FIRST_MS + 10), setInterval(() => (say(), judge()), BEAT_MS)];
  signal.addEventListener("abort", () => {
    timers.forEach(clearTimeout);
    say({ gone: true });
    channel.close();
  });
  say({ asks: true });
}
