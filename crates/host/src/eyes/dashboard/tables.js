// The smaller tables: FDB, workers, and the answer of a trace.

import { get, post, Refused } from './api.js';
import { byId, count, duration, fillRows, html, perSecond, say } from './page.js';

/** Rows of the FDB that are drawn. */
const DRAWN_MAX = 200;
/** FDBs up to this size are fetched whole; beyond it, the filter has to name a port, switch, VLAN or address. */
const FETCHED_MAX = 20_000;

const MAC = /^([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$/;

export class Fdb {
  constructor() {
    this.section = byId('fdb');
    this.filter = byId('fdb-filter');
    this.entries = [];
    this.visible = false;
    this.asked = -Infinity;
    this.query = '';
    new IntersectionObserver((seen) => {
      this.visible = seen.at(-1).isIntersecting;
    }).observe(this.section);
    this.filter.addEventListener('input', () => {
      this.asked = -Infinity;
      this.draw();
    });
  }

  /** Fetches what is to be shown, every two seconds while the table is in view. */
  async take(status, ports, at) {
    if (!this.visible || at - this.asked < 2000) {
      return;
    }
    this.asked = at;
    this.all = status.switches.reduce((total, each) => total + each.fdb_entries, 0);
    const query = this.narrowed(ports, status.switches);
    if (this.all > FETCHED_MAX && query === '') {
      this.entries = [];
      say(byId('fdb-note'), `${count(this.all)} entries: name a port, a switch, vlan=N or a whole MAC address in the filter.`);
      fillRows(byId('fdb-table').tBodies[0], []);
      return;
    }
    try {
      this.entries = await get(`/api/fdb${this.all > FETCHED_MAX ? query : ''}`);
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      this.entries = [];
    }
    this.draw();
  }

  /** The filter as far as the server can apply it. */
  narrowed(ports, switches) {
    for (const word of this.words()) {
      const vlan = /^vlan=(\d+)$/.exec(word);
      if (MAC.test(word)) {
        return `?mac=${encodeURIComponent(word)}`;
      }
      if (vlan) {
        return `?vlan=${vlan[1]}`;
      }
      const same = (each) => each.name.toLowerCase() === word;
      const port = ports.find(same);
      if (port) {
        return `?port=${encodeURIComponent(port.name)}`;
      }
      const named = switches.find(same);
      if (named && named.fdb_entries <= FETCHED_MAX) {
        return `?switch=${encodeURIComponent(named.name)}`;
      }
    }
    return '';
  }

  words() {
    return this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  draw() {
    const words = this.words();
    const fits = (entry) => {
      const text = `${entry.mac} ${entry.port} ${entry.switch} ${entry.kind} ${entry.why} vlan=${entry.vlan ?? ''}`.toLowerCase();
      return words.every((word) => text.includes(word.replaceAll('-', ':')) || text.includes(word));
    };
    const found = words.length > 0 ? this.entries.filter(fits) : this.entries;
    const shown = found.slice(0, DRAWN_MAX);
    fillRows(byId('fdb-table').tBodies[0], shown.map((entry) => ({
      key: `${entry.switch} ${entry.vlan ?? ''} ${entry.mac}`,
      cells: [
        { class: 'mono', text: entry.mac },
        { text: entry.port, title: entry.port },
        entry.switch,
        { class: 'number', text: entry.vlan ?? '–' },
        { class: `kind ${entry.kind === 'learned' ? '' : 'pinned'}`, text: entry.kind },
        entry.why,
        { class: 'number', text: entry.kind === 'learned' || entry.kind === 'dynamic' ? duration(entry.age_ms / 1000) : '–' },
      ],
    })));
    const all = `${count(found.length)} ${found.length === 1 ? 'entry' : 'entries'}`;
    say(byId('fdb-note'), found.length > shown.length ? `${count(shown.length)} of ${all} shown; a filter finds the others.` : all);
  }
}

export function showWorkers(status, history) {
  fillRows(byId('workers-table').tBodies[0], status.workers.slice(0, 256).map((worker) => ({
    key: worker.name,
    cells: [
      worker.name,
      worker.mode,
      { class: 'number', text: worker.cpu ?? 'any' },
      { class: 'number', text: worker.queues },
      { class: 'number', text: perSecond(history.sleeps.get(worker.name) ?? 0) },
    ],
  })));
}

export class Trace {
  /** `failed(error)` hears of what is not the trace's own answer. */
  constructor(failed) {
    this.answer = byId('trace-answer');
    byId('trace-form').addEventListener('submit', async (event) => {
      event.preventDefault();
      const question = { port: byId('trace-port').value.trim(), frame: byId('trace-frame').value.trim() };
      try {
        this.show(await post('/api/trace', question));
      } catch (error) {
        if (error instanceof Refused) {
          this.answer.replaceChildren(html('p', { class: 'bad' }, error.message));
        } else {
          failed(error);
        }
      }
    });
  }

  /** Offers the ports' names. */
  offer(ports) {
    const names = ports.slice(0, 200).map((port) => port.name);
    const key = names.join('\n');
    if (key !== this.offered) {
      this.offered = key;
      byId('trace-ports').replaceChildren(...names.map((name) => html('option', { value: name })));
    }
  }

  show(trace) {
    const steps = trace.steps.map((step) => html('li', { class: step.passed ? 'passed' : 'failed' },
      html('b', {}, `${step.passed ? '✓' : '✕'} ${step.rule}`), ` ${step.finding}`));
    const ports = (title, outputs) => outputs.length === 0 ? [] : [
      html('h3', {}, title),
      html('ul', { class: 'chips' }, ...outputs.slice(0, 200).map((output) => html('li', {}, `${output.port}: ${output.form}`))),
    ];
    const verdict = trace.drop ? `${trace.verdict}: ${trace.drop}` : trace.verdict;
    const vlan = trace.vlan === null || trace.vlan === undefined ? '' : `, VLAN ${trace.vlan}`;
    this.answer.replaceChildren(
      html('p', {}, `${trace.frame}, in by ${trace.port} of ${trace.switch}${vlan}`),
      html('ol', { class: 'steps' }, ...steps),
      html('p', { class: `verdict ${trace.drop ? 'bad' : 'good'}` }, verdict),
      ...ports('It leaves by', trace.outputs),
      ...ports('It does not leave by', trace.left_out),
    );
  }
}
