// The topology: each switch as a bar, guests above it, the host's interfaces below, and links that move as frames do.
//
// Only so many ports fit on a switch's bar. The rest, and there may be a thousand, is a field of small squares behind it.
// Ports that say something (a fault, a drop, much traffic) come onto the bar first; the choice is made anew only now and then,
// so that a picture someone looks at does not jump.
//
// What moves are HTML strips above the drawing, shifted by a transform: the compositor does that alone, without this page's
// thread and without painting anything anew.

import { bits, cut, html, perSecond, say, set, stateOf, svg } from './page.js';

const CARD = { least: 118, most: 172, height: 50, gap: 12 };
const MARGIN = 16;
const LINK = 58;
const BAR = 46;
const SQUARE = 9;
const PITCH = 12;
const CHOICE_MS = 15_000;

const isUplink = (port) => port.kind !== 'vhost-user' && port.kind !== 'vfio-user';

/** How much a port has to say; the bar takes the highest. */
function interest(port, rates) {
  const state = { faulted: 4e12, shut: 3e12 }[stateOf(port)] ?? (port.state === 'running' ? 1e9 : 0);
  return state + (isUplink(port) ? 1e13 : 0) + (rates.drops > 0 ? 1e12 : 0) + rates.inBytes + rates.outBytes;
}

/** 0 for silence, then 1 to 5 by the power of ten of the rate. */
function level(bytes) {
  return bytes <= 0 ? 0 : Math.min(5, Math.max(1, Math.floor(Math.log10(bytes * 8)) - 2));
}

export class Topology {
  /** `choose(name)` is called when someone wants to know more about a port. */
  constructor(place, choose) {
    this.place = place;
    this.choose = choose;
    this.switches = new Map();
    new ResizeObserver(() => this.redraw()).observe(place);
  }

  redraw() {
    if (this.last) {
      this.show(...this.last);
    }
  }

  show(status, ports, history, at) {
    this.last = [status, ports, history, at];
    const groups = new Map(status.switches.map((each) => [each.name, []]));
    for (const port of ports) {
      groups.get(port.switch)?.push(port);
    }
    for (const [name, drawn] of this.switches) {
      if (!groups.has(name)) {
        drawn.figure.remove();
        this.switches.delete(name);
      }
    }
    for (const empty of this.place.querySelectorAll(':scope > .empty')) {
      empty.remove();
    }
    const many = groups.size > 1;
    set(this.place, 'data-many', many ? 'yes' : null);
    for (const each of status.switches) {
      let drawn = this.switches.get(each.name);
      if (!drawn) {
        drawn = new Drawn(each.name, this.choose);
        this.switches.set(each.name, drawn);
        this.place.append(drawn.figure);
      }
      drawn.show(each, groups.get(each.name), history, at);
    }
    if (groups.size === 0) {
      this.place.append(html('p', { class: 'empty' }, 'There is no switch.'));
    }
  }
}

/** The picture of one switch. */
class Drawn {
  constructor(name, choose) {
    this.choose = choose;
    this.cards = new Map();
    this.squares = new Map();
    this.chosen = { names: new Set(), at: -Infinity, key: '' };
    this.links = svg('g');
    this.flows = html('div', { class: 'flows', 'aria-hidden': 'true' });
    this.bar = svg('g', { class: 'bar' });
    this.barBox = svg('rect', { rx: 10, height: BAR });
    this.barName = svg('text', { class: 'name' });
    this.barFacts = svg('text', { class: 'facts', 'text-anchor': 'end' });
    this.bar.append(this.barBox, this.barName, this.barFacts);
    this.field = svg('g', { class: 'field' });
    this.fieldName = svg('text', { class: 'facts' });
    this.nodes = svg('g');
    this.picture = svg('svg', { role: 'group' }, this.links, this.bar, this.nodes);
    // The field has a picture of its own, so that a change in one does not paint the other.
    this.squared = svg('svg', { role: 'img' }, this.fieldName, this.field);
    this.figure = html('figure', {}, this.picture, this.flows, this.squared);
    this.field.addEventListener('click', (event) => {
      const name = event.target.portName;
      if (name !== undefined) {
        this.choose(name);
      }
    });
    set(this.picture, 'aria-label', `switch ${name}`);
  }

  show(each, ports, history, at) {
    const width = Math.max(300, this.figure.clientWidth);
    const room = Math.max(2, Math.floor((width - 2 * MARGIN + CARD.gap) / (CARD.least + CARD.gap)));
    const names = this.pick(ports, room, history, at);
    const above = ports.filter((port) => names.has(port.name) && !isUplink(port));
    const below = ports.filter((port) => names.has(port.name) && isUplink(port));
    // More of one sort than fit in their row use what the other row leaves free.
    while (above.length > room) {
      below.unshift(above.pop());
    }
    while (below.length > room) {
      above.push(below.pop());
    }
    const rest = ports.filter((port) => !names.has(port.name));
    const top = MARGIN + (above.length > 0 ? CARD.height + LINK : 0);
    let bottom = top + BAR;
    this.drawBar(each, width, top);
    const kept = new Set();
    this.drawRow(above, width, MARGIN, top, history, kept);
    if (below.length > 0) {
      this.drawRow(below, width, bottom + LINK, bottom, history, kept);
      bottom += LINK + CARD.height;
    }
    for (const [name, card] of this.cards) {
      if (!kept.has(name)) {
        card.remove();
        this.cards.delete(name);
      }
    }
    size(this.picture, width, bottom + MARGIN);
    this.squared.toggleAttribute('hidden', rest.length === 0);
    size(this.squared, width, this.drawField(rest, width, history) + MARGIN);
  }

  /** The names of the ports that get a card. */
  pick(ports, room, history, at) {
    const most = 2 * room;
    if (ports.length <= most) {
      return new Set(ports.map((port) => port.name));
    }
    const key = `${room} ${ports.map((port) => `${port.name} ${stateOf(port)}`).join('\n')}`;
    if (key !== this.chosen.key || at - this.chosen.at > CHOICE_MS) {
      const weighed = ports.map((port) => [interest(port, history.of(port.name)), port.name]);
      weighed.sort((a, b) => b[0] - a[0]);
      this.chosen = { key, at, names: new Set(weighed.slice(0, most).map(([, name]) => name)) };
    }
    return this.chosen.names;
  }

  drawBar(each, width, y) {
    set(this.barBox, 'x', MARGIN);
    set(this.barBox, 'y', y);
    set(this.barBox, 'width', width - 2 * MARGIN);
    set(this.barName, 'x', MARGIN + 16);
    set(this.barFacts, 'x', width - MARGIN - 16);
    for (const text of [this.barName, this.barFacts]) {
      set(text, 'y', y + BAR / 2 + 5);
    }
    say(this.barName, cut(each.name, 28));
    const full = each.fdb_entries_max > 0 && each.fdb_entries / each.fdb_entries_max > 0.9;
    set(this.bar, 'class', full ? 'bar full' : 'bar');
    const vlan = each.vlan === 'none' ? '' : ` · VLANs ${each.vlan}`;
    const wide = `${each.ports} ports · ${each.fdb_entries} of ${each.fdb_entries_max} addresses${vlan}`;
    say(this.barFacts, width > 560 ? `${wide}${each.snooping ? ' · snooping' : ''}` : `${each.ports} ports`);
  }

  drawRow(ports, width, y, edge, history, kept) {
    const span = (width - 2 * MARGIN) / Math.max(1, ports.length);
    ports.forEach((port, index) => {
      kept.add(port.name);
      let card = this.cards.get(port.name);
      if (!card) {
        card = new Card(port.name, this.choose);
        this.cards.set(port.name, card);
        this.links.append(card.link);
        this.nodes.append(card.group);
        this.flows.append(card.incoming, card.outgoing);
      }
      const size = Math.min(CARD.most, span - CARD.gap);
      card.show(port, history.of(port.name), { x: MARGIN + span * (index + 0.5), y, edge, width: Math.round(size) });
    });
  }

  drawField(ports, width, history) {
    const across = Math.max(1, Math.floor((width - 2 * MARGIN) / PITCH));
    const kept = new Set(ports.map((port) => port.name));
    for (const [name, square] of this.squares) {
      if (!kept.has(name)) {
        square.remove();
        this.squares.delete(name);
      }
    }
    say(this.fieldName, ports.length > 0 ? `and ${ports.length} more, brighter with traffic` : '');
    set(this.fieldName, 'x', MARGIN);
    set(this.fieldName, 'y', 12);
    set(this.squared, 'aria-label', `${ports.length} more ports; the table below has them all`);
    ports.forEach((port, index) => {
      let square = this.squares.get(port.name);
      if (!square) {
        square = svg('rect', { width: SQUARE, height: SQUARE, rx: 2 }, svg('title'));
        square.portName = port.name;
        say(square.firstElementChild, port.name);
        this.squares.set(port.name, square);
        this.field.append(square);
      }
      const rates = history.of(port.name);
      set(square, 'x', MARGIN + (index % across) * PITCH);
      set(square, 'y', 22 + Math.floor(index / across) * PITCH);
      set(square, 'class', `${stateOf(port)} heat${level(rates.inBytes + rates.outBytes)}${rates.drops > 0 ? ' dropping' : ''}`);
    });
    return 22 + Math.ceil(ports.length / across) * PITCH;
  }
}

function size(picture, width, height) {
  set(picture, 'viewBox', `0 0 ${width} ${height}`);
  set(picture, 'width', width);
  set(picture, 'height', height);
}

/** A port on the bar, and its link. */
class Card {
  constructor(name, choose) {
    this.line = svg('path', { class: 'line' });
    this.socket = svg('rect', { class: 'socket', width: 22, height: 7, rx: 2 });
    this.link = svg('g', {}, this.line, this.socket);
    this.incoming = html('div', {}, html('i'));
    this.outgoing = html('div', {}, html('i'));
    this.box = svg('rect', { class: 'box', height: CARD.height, rx: 9 });
    this.edge = svg('rect', { class: 'edge', width: 4, height: CARD.height - 16, x: 7, y: 8, rx: 2 });
    this.name = svg('text', { class: 'name', x: 19, y: 20 });
    this.sent = svg('tspan', { class: 'sent' });
    this.received = svg('tspan', { class: 'received', dx: 7 });
    this.rate = svg('text', { class: 'rate', x: 19, y: 38 }, this.sent, this.received);
    this.badge = svg('text', { class: 'badge', y: 20, 'text-anchor': 'end' });
    this.title = svg('title');
    this.group = svg('g', { role: 'button', tabindex: 0 }, this.title, this.box, this.edge, this.name, this.rate, this.badge);
    this.group.addEventListener('click', () => choose(name));
    this.group.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        choose(name);
      }
    });
  }

  remove() {
    for (const element of [this.group, this.link, this.incoming, this.outgoing]) {
      element.remove();
    }
  }

  show(port, rates, { x, y, edge, width }) {
    const state = stateOf(port);
    const above = y < edge;
    set(this.group, 'transform', `translate(${Math.round(x - width / 2)} ${y})`);
    set(this.group, 'class', `card ${state}${isUplink(port) ? ' uplink' : ''}`);
    set(this.box, 'width', width);
    set(this.badge, 'x', width - 9);
    const dropping = rates.drops > 0;
    say(this.badge, dropping ? `✕ ${perSecond(rates.drops)}/s` : port.uplink?.mode === 'promiscuous' ? 'promisc' : '');
    set(this.badge, 'class', dropping ? 'badge dropping' : 'badge');
    const room = width - 30 - this.badge.textContent.length * 6.5;
    say(this.name, cut(port.name, Math.max(4, Math.floor(room / 7.4))));
    const quiet = port.shut ? `shut: ${port.shut}` : state;
    const running = state === 'running';
    const [away, here] = above ? ['↓', '↑'] : ['↑', '↓'];
    const pace = (bytes) => (width < 150 ? bits(bytes).replace(/\.\d+/, '') : bits(bytes)).replace('b/s', '').trim();
    say(this.sent, running ? `${away} ${pace(rates.inBytes)}` : cut(quiet, 16));
    say(this.received, running ? `${here} ${pace(rates.outBytes)}` : '');
    const words = `${port.name}, ${port.kind}, ${quiet}, from guest ${bits(rates.inBytes)}, to guest ${bits(rates.outBytes)}`;
    const drops = dropping ? `, ${perSecond(rates.drops)} drops a second` : '';
    say(this.title, words + drops);
    set(this.group, 'aria-label', words + drops);
    set(this.link, 'class', `link ${state}`);
    // The card's edge that faces the bar.
    const start = above ? y + CARD.height : y;
    const middle = Math.round(x);
    set(this.line, 'd', `M${middle} ${start}V${edge}`);
    set(this.socket, 'x', middle - 11);
    set(this.socket, 'y', above ? edge - 4 : edge - 3);
    const top = Math.min(start, edge);
    flow(this.incoming, 'in', rates.inBytes, above, middle - 7, top, state);
    flow(this.outgoing, 'out', rates.outBytes, !above, middle + 3, top, state);
  }
}

/** Shows a strip at `x`, `y` that moves down or up at the pace of a rate. */
function flow(strip, name, bytes, down, x, y, state) {
  const pace = state === 'running' ? level(bytes) : 0;
  set(strip, 'class', `flow ${name} ${down ? 'down' : 'up'} level${pace}`);
  strip.style.left = `${x}px`;
  strip.style.top = `${y + 3}px`;
  strip.style.height = `${LINK - 8}px`;
}
