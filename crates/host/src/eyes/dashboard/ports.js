// The table of ports. Only the rows that are in view exist as elements, so a thousand ports cost what twenty cost.

import { bits, byId, count, fillRows, html, perSecond, say, set, stateOf } from './page.js';
import { sum } from './history.js';

const ROW = 44;
const SPARE = 6;
const ORDER = { faulted: 0, shut: 1, running: 2, connected: 3, waiting: 4 };

/** What else there is to know of a port in one line. */
function remarks(port, rates) {
  const words = [];
  if (port.fault) {
    words.push(port.fault);
  }
  if (port.shut) {
    words.push(`shut: ${port.shut}`);
  }
  const worst = Object.entries(rates.reasons).sort((a, b) => b[1] - a[1]);
  for (const [reason, speed] of worst.slice(0, 3)) {
    words.push(`${reason} ${perSecond(speed)}/s`);
  }
  if (port.uplink && port.uplink.mode !== 'none') {
    words.push(port.uplink.reason ? `${port.uplink.mode}: ${port.uplink.reason}` : port.uplink.mode);
  }
  const refused = port.receive_filter?.refused;
  if (refused) {
    words.push(refused);
  }
  if (words.length === 0) {
    const lost = Object.entries(port.counters.drops).sort((a, b) => b[1] - a[1]);
    words.push(...lost.slice(0, 2).map(([reason, value]) => `${reason} ${count(value)}`));
  }
  return words.join(' · ');
}

export class Ports {
  /** `choose(name)` is called when someone wants to know more about a port. */
  constructor(choose) {
    this.table = byId('ports-table');
    this.scroll = byId('ports-scroll');
    this.filter = byId('ports-filter');
    this.body = this.table.tBodies[0];
    this.before = this.spacer();
    this.after = this.spacer();
    this.table.insertBefore(this.before, this.body);
    this.table.append(this.after);
    this.sort = { by: 'name', down: false };
    this.rows = [];
    for (const heading of this.table.querySelectorAll('th[data-sort]')) {
      heading.querySelector('button').addEventListener('click', () => this.sortBy(heading.dataset.sort));
    }
    this.markSort();
    this.filter.addEventListener('input', () => {
      this.scroll.scrollTop = 0;
      this.redraw();
    });
    this.scroll.addEventListener('scroll', () => this.draw(), { passive: true });
    const chosen = (event) => event.target.closest('tr')?.getAttribute('data-port');
    this.body.addEventListener('click', (event) => {
      const name = chosen(event);
      if (name !== null && name !== undefined) {
        choose(name);
      }
    });
    this.body.addEventListener('keydown', (event) => this.key(event, chosen, choose));
  }

  spacer() {
    return html('tbody', { 'aria-hidden': 'true', class: 'spacer' }, html('tr', {}, html('td', { colspan: 8 })));
  }

  key(event, chosen, choose) {
    const row = event.target.closest('tr');
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      choose(chosen(event));
    } else if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      const next = event.key === 'ArrowDown' ? row?.nextElementSibling : row?.previousElementSibling;
      next?.focus();
    }
  }

  sortBy(column) {
    const numeric = ['in', 'out', 'drops', 'lost'].includes(column);
    this.sort = { by: column, down: this.sort.by === column ? !this.sort.down : numeric };
    this.markSort();
    this.redraw();
  }

  markSort() {
    for (const heading of this.table.querySelectorAll('th[data-sort]')) {
      const here = heading.dataset.sort === this.sort.by;
      set(heading, 'aria-sort', here ? (this.sort.down ? 'descending' : 'ascending') : null);
    }
  }

  redraw() {
    if (this.last) {
      this.show(...this.last);
    }
  }

  show(ports, history) {
    this.last = [ports, history];
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = ports.map((port) => {
      const rates = history.of(port.name);
      const lost = sum(port.counters.drops);
      return { port, rates, lost, state: stateOf(port) };
    });
    const fits = ({ port, state, rates }) => {
      const addresses = port.addresses.map((address) => address.mac).join(' ');
      const reasons = Object.keys(rates.reasons).join(' ');
      const text = `${port.name} ${port.switch} ${port.kind} ${state} ${port.mac ?? ''} ${addresses} ${port.interface ?? ''} ${reasons}`;
      return words.every((word) => text.toLowerCase().includes(word));
    };
    this.rows = words.length > 0 ? rows.filter(fits) : rows;
    this.rows.sort(this.comparison());
    const all = ports.length;
    say(byId('ports-count'), this.rows.length === all ? `${all}` : `${this.rows.length} of ${all}`);
    this.draw();
  }

  comparison() {
    const values = {
      name: (row) => row.port.name,
      switch: (row) => row.port.switch,
      state: (row) => ORDER[row.state] ?? 9,
      in: (row) => row.rates.inBytes,
      out: (row) => row.rates.outBytes,
      drops: (row) => row.rates.drops,
      lost: (row) => row.lost,
    };
    const value = values[this.sort.by];
    const sign = this.sort.down ? -1 : 1;
    const names = new Intl.Collator('en', { numeric: true }).compare;
    return (a, b) => {
      const [first, second] = [value(a), value(b)];
      const order = typeof first === 'string' ? names(first, second) : first - second;
      return sign * order || names(a.port.name, b.port.name);
    };
  }

  /** Draws the rows that are in view. */
  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - SPARE);
    const room = Math.ceil((this.scroll.clientHeight || 600) / ROW) + 2 * SPARE;
    const visible = this.rows.slice(first, first + room);
    this.pad(this.before, first);
    this.pad(this.after, this.rows.length - first - visible.length);
    set(this.table, 'aria-rowcount', this.rows.length + 1);
    fillRows(this.body, visible.map((row, index) => this.row(row, first + index)));
  }

  pad(spacer, rows) {
    spacer.hidden = rows <= 0;
    spacer.rows[0].cells[0].style.height = `${Math.max(0, rows) * ROW}px`;
  }

  row({ port, rates, lost, state }, index) {
    const note = remarks(port, rates);
    const at = port.interface ?? port.mac ?? '';
    const traffic = (bytes, frames) => ({ class: 'number', text: `${bits(bytes)}\n${perSecond(frames)} frames/s` });
    return {
      key: port.name,
      'data-port': port.name,
      'aria-rowindex': index + 2,
      tabindex: 0,
      cells: [
        { class: 'two', text: `${port.name}\n${port.kind}${at ? ` · ${at}` : ''}`, title: port.name },
        { text: port.switch, title: port.switch },
        { class: `state ${state}`, text: state },
        traffic(rates.inBytes, rates.inFrames),
        traffic(rates.outBytes, rates.outFrames),
        { class: rates.drops > 0 ? 'number bad' : 'number', text: rates.drops > 0 ? perSecond(rates.drops) : '–' },
        { class: 'number', text: lost > 0 ? count(lost) : '–' },
        { class: 'remarks', text: note, title: note },
      ],
    };
  }
}
