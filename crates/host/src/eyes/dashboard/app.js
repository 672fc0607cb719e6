// The dashboard: asks the server once a second and shows what it answers. Theory of operation: one loop, one answer at a
// time. While the tab is hidden it rests. A server that is loaded or far away is asked less often. When it does not answer,
// the page says so and turns pale, because old figures must not look like new ones.

import { get, hasToken, setToken, Unauthorised } from './api.js';
import { Drops, Tile } from './chart.js';
import { Details } from './details.js';
import { Disks } from './disks.js';
import { History } from './history.js';
import { bits, byId, count, duration, perSecond, say, set } from './page.js';
import { Ports } from './ports.js';
import { Fdb, showWorkers, Trace } from './tables.js';
import { Topology } from './topology.js';

const INTERVAL_MS = 1000;
/** An answer older than this is called stale even before a question has failed. */
const STALE_MS = 3000;

const history = new History();
let ports = [];
let answeredAt = null;
let answeredClock = '';
let failure = null;

const details = new Details();
const choose = (name) => details.open(name, ports, history);
const topology = new Topology(byId('switches'), choose);
const table = new Ports(choose);
const disks = new Disks();
const drops = new Drops();
const fdb = new Fdb();
const trace = new Trace((error) => fail(error));
const tiles = Object.fromEntries(
  [['ports', 'Ports up'], ['bits', 'Throughput'], ['frames', 'Frames'], ['drops', 'Drops'], ['fdb', 'Addresses'], ['up', 'Up for']]
    .map(([key, name]) => [key, new Tile(byId('tiles'), name)]),
);

function show(status, at) {
  say(byId('version'), status.version);
  const { latest, samples } = history;
  const switches = `${status.switches.length} ${status.switches.length === 1 ? 'switch' : 'switches'}`;
  const more = status.disks_total > 0 ? `${switches}, ${status.disks_up} of ${status.disks_total} disks up` : switches;
  tiles.ports.show(`${status.ports_up} of ${status.ports_total}`, more);
  tiles.bits.show(bits(latest.bytes), 'delivered', samples, at, (sample) => sample.bytes);
  tiles.frames.show(`${perSecond(latest.frames)}/s`, 'delivered', samples, at, (sample) => sample.frames);
  const worst = Object.entries(latest.reasons).sort((a, b) => b[1] - a[1])[0];
  tiles.drops.show(`${perSecond(latest.drops)}/s`, worst ? `mostly ${worst[0]}` : 'none now', samples, at, (sample) => sample.drops);
  set(tiles.drops.element, 'class', latest.drops > 0 ? 'tile bad' : 'tile');
  const entries = status.switches.reduce((total, each) => total + each.fdb_entries, 0);
  tiles.fdb.show(count(entries), 'in the FDBs');
  tiles.up.show(duration(status.uptime_s), `process ${status.pid}`);
  topology.show(status, ports, history, at);
  table.show(ports, history);
  details.show(ports, history);
  drops.show(history, at);
  showWorkers(status, history);
  trace.offer(ports);
}

async function once() {
  const [status, answer, stores] = await Promise.all([get('/api/status'), get('/api/ports'), get('/api/disks')]);
  const at = performance.now();
  ports = answer;
  history.take(status, ports, at);
  show(status, at);
  disks.take(stores, at);
  answeredAt = at;
  answeredClock = new Date().toLocaleTimeString('en-GB');
  failure = null;
  await fdb.take(status, ports, at);
}

function fail(error) {
  failure = error;
  if (error instanceof Unauthorised) {
    login(error.message);
  }
}

/** Says whether what the page shows is what is. */
function mark() {
  const age = answeredAt === null ? Infinity : performance.now() - answeredAt;
  const paused = document.hidden;
  const [state, words] = failure instanceof Unauthorised ? ['lost', 'token needed']
    : failure ? ['lost', 'no answer']
      : paused ? ['stale', 'paused']
        : answeredAt === null ? ['stale', 'connecting']
          : age > STALE_MS ? ['stale', `${Math.round(age / 1000)} s old`]
            : ['live', 'live'];
  set(byId('link'), 'class', `link ${state}`);
  say(byId('link').lastElementChild, words);
  document.body.classList.toggle('old', state !== 'live' && answeredAt !== null);
  const alarm = byId('alarm');
  alarm.hidden = failure === null || failure instanceof Unauthorised;
  if (!alarm.hidden) {
    const since = answeredAt === null ? '' : ` What is shown is of ${answeredClock}.`;
    const why = failure.name === 'TypeError' ? '' : ` (${failure.message})`;
    say(alarm, `The server does not answer${why}.${since} Asking again every second.`);
  }
}

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

async function loop() {
  for (;;) {
    const began = performance.now();
    if (!document.hidden && !byId('login').open) {
      try {
        await once();
      } catch (error) {
        fail(error);
      }
    }
    mark();
    // At most a quarter of the time goes into asking and drawing.
    await sleep(Math.max(INTERVAL_MS - (performance.now() - began), 3 * (performance.now() - began), 50));
  }
}

function login(why) {
  const dialog = byId('login');
  if (!dialog.open) {
    say(byId('login-why'), hasToken() ? `The token was refused: ${why}` : why);
    byId('login-token').value = '';
    dialog.showModal();
  }
}

byId('login-form').addEventListener('submit', () => {
  const token = byId('login-token').value.trim();
  if (token !== '') {
    setToken(token);
    failure = null;
  }
});

/** Light, dark, or as the system has it. */
function theme(value) {
  set(document.documentElement, 'data-theme', value);
}
byId('theme').addEventListener('click', () => {
  const dark = document.documentElement.dataset.theme === undefined
    ? matchMedia('(prefers-color-scheme: dark)').matches
    : document.documentElement.dataset.theme === 'dark';
  localStorage.setItem('ringway-theme', dark ? 'light' : 'dark');
  theme(dark ? 'light' : 'dark');
});
theme(localStorage.getItem('ringway-theme'));

setInterval(mark, 500);
document.addEventListener('visibilitychange', mark);
loop();
