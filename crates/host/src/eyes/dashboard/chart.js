// Charts over the last two minutes: columns of drops, stacked by reason, and the small lines in the tiles.

import { byId, cut, fillRows, count, html, perSecond, REASONS, say, set, svg } from './page.js';
import { WINDOW_MS } from './history.js';

const WIDTH = 600;
const HEIGHT = 150;
const LEFT = 44;
const FOOT = 18;
const COLOURS = 8;

/** The next number of the form 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export class Drops {
  constructor() {
    this.columns = svg('g');
    this.lines = [0, 0.5, 1].map((part) => {
      const y = HEIGHT - FOOT - part * (HEIGHT - FOOT - 10);
      const label = svg('text', { x: LEFT - 8, y: y + 4, 'text-anchor': 'end' });
      return { part, label, line: svg('path', { class: 'gridline', d: `M${LEFT} ${y}H${WIDTH}` }) };
    });
    const axis = [0, 30, 60, 90, 120].map((ago) => {
      const x = WIDTH - (ago / 120) * (WIDTH - LEFT);
      const anchor = ago === 0 ? 'end' : ago === 120 ? 'start' : 'middle';
      return svg('text', { x, y: HEIGHT - 3, 'text-anchor': anchor }, ago === 0 ? 'now' : `−${ago} s`);
    });
    const parts = this.lines.flatMap(({ label, line }) => [line, label]);
    this.picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', class: 'chart' }, ...parts, this.columns, ...axis);
    byId('drops-chart').append(this.picture);
    this.colours = new Map();
  }

  /** The number of a reason's colour; it keeps it while the page is open. */
  colour(reason) {
    if (!this.colours.has(reason)) {
      this.colours.set(reason, this.colours.size % COLOURS);
    }
    return this.colours.get(reason);
  }

  show(history, at) {
    const reasons = [...history.reasons.keys()].filter((reason) => history.reasons.get(reason) > 0);
    const most = history.samples.reduce((most, sample) => Math.max(most, sample.drops), 0);
    const top = roundUp(Math.max(most, 1));
    for (const { part, label } of this.lines) {
      say(label, perSecond(part * top));
    }
    const scale = (HEIGHT - FOOT - 10) / top;
    const columns = [];
    for (const sample of history.samples) {
      const right = WIDTH - ((at - sample.at) / WINDOW_MS) * (WIDTH - LEFT);
      const width = (sample.span * 1000 / WINDOW_MS) * (WIDTH - LEFT);
      let y = HEIGHT - FOOT;
      for (const reason of reasons) {
        const height = (sample.reasons[reason] ?? 0) * scale;
        if (height > 0 && right - width >= LEFT - 1) {
          y -= height;
          columns.push({ x: right - width + 0.4, y, width: Math.max(1, width - 0.8), height, class: `colour${this.colour(reason)}` });
        }
      }
    }
    while (this.columns.children.length > columns.length) {
      this.columns.lastElementChild.remove();
    }
    columns.forEach((column, index) => {
      const rect = this.columns.children[index] ?? this.columns.appendChild(svg('rect'));
      for (const [name, value] of Object.entries(column)) {
        set(rect, name, typeof value === 'number' ? value.toFixed(1) : value);
      }
    });
    const now = history.latest.reasons;
    set(this.picture, 'aria-label', `Drops a second, now ${perSecond(history.latest.drops)}, most ${perSecond(most)}`);
    const rows = reasons.map((reason) => [reason, now[reason] ?? 0, history.recent(reason), history.reasons.get(reason)]);
    rows.sort((a, b) => b[2] - a[2] || b[3] - a[3]);
    byId('drops-none').hidden = rows.length > 0;
    byId('drops-table').hidden = rows.length === 0;
    fillRows(byId('drops-table').tBodies[0], rows.map(([reason, speed, recent, total]) => ({
      key: reason,
      cells: [
        { class: `reason colour${this.colour(reason)}`, text: `${cut(reason, 40)}\n${REASONS[reason] ?? ''}`, title: REASONS[reason] },
        { class: speed > 0 ? 'number bad' : 'number', text: speed > 0 ? perSecond(speed) : '–' },
        { class: 'number', text: count(Math.round(recent)) },
        { class: 'number', text: count(total) },
      ],
    })));
  }
}

/** A tile: a name, a figure, and a line of the figure's last two minutes. */
export class Tile {
  constructor(place, name) {
    this.value = html('b');
    this.more = html('small');
    this.path = svg('path');
    this.line = svg('svg', { viewBox: '0 0 120 30', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, this.path);
    this.element = html('div', { class: 'tile' }, html('span', {}, name), this.value, this.more, this.line);
    place.append(this.element);
  }

  show(value, more, samples = [], at = 0, of = () => 0) {
    say(this.value, value);
    say(this.more, more);
    const most = samples.reduce((most, sample) => Math.max(most, of(sample)), 0);
    const points = samples.map((sample) => {
      const x = 120 - ((at - sample.at) / WINDOW_MS) * 120;
      return `${x.toFixed(1)} ${(28 - (most > 0 ? of(sample) / most : 0) * 25).toFixed(1)}`;
    });
    set(this.path, 'd', most > 0 && points.length > 1 ? `M${points.join('L')}` : null);
  }
}
